//! Pages of a list over several exports.
//!
//! A list is sorted by export and name. A token names the last volume or snapshot that the pages so far have covered.
//! So it stays valid after a restart, and when entries are created or deleted meanwhile.
//!
//! A page is bounded whatever the caller asks for ([`PAGE`], [`MESSAGE`]), as CSI allows ("max_entries").

use std::collections::BTreeMap;
use std::fmt;
use std::future::ready;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use futures_util::stream::TryStreamExt as _;
use prost::Message;

use super::Controller;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::nfs::source::{Server, Share, Source};
use crate::service::controller::volumes::answer;
use crate::service::proto::csi;
use crate::volume::id::VolumeName;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// The largest page, in entries. A caller that asks for more, or for all, gets the rest by the token.
pub const PAGE: usize = 1000;

/// The largest page, in bytes: the usual limit of a gRPC client is 4 MiB a message.
const MESSAGE: usize = 3 << 20;

impl<C: Connect> Controller<C> {
    pub(super) async fn list(&self, request: csi::ListVolumesRequest) -> Result<csi::ListVolumesResponse> {
        let (start, mut page) = (Token::parse(&request.starting_token)?, Page::new(request.max_entries)?);
        for (share, options) in self.reachable(&start, None).await? {
            let (names, after, room) = (&self.names, start.last_of(&share), page.room());
            let names = |export: Arc<Export<C::Fs>>| async move { names.some(&export, after, room).await };
            let Some(names) = listed(&share, self.exports.on(&share, &options, names).await) else { continue };
            if !page.take(&share, names.into_iter().map(|name| (name, options.clone()))) {
                break;
            }
        }
        let mut entries = Vec::with_capacity(page.entries.len());
        for on_one in page.entries.chunk_by(|(one, ..), (next, ..)| one == next) {
            let Some((share, _, options)) = on_one.first() else { continue };
            let read = |export: Arc<Export<C::Fs>>| async move {
                let names = on_one.iter().map(|(_, name, _)| name.clone()).collect();
                let entry = |(name, record): (VolumeName, Option<Record>)| {
                    // A volume that was deleted meanwhile, or that is still being filled, is not listed.
                    let record = record.filter(|record| !record.pending);
                    ready(Ok(record.map(|record| (share.clone(), name, entry(&record)))))
                };
                Record::read_or_skip_each(&export, names).try_filter_map(entry).try_collect::<Vec<_>>().await
            };
            entries.extend(self.exports.on(share, options, read).await?);
        }
        let (entries, next) = in_a_message(entries, page.next);
        Ok(csi::ListVolumesResponse { entries, next_token: text(next.as_ref()) })
    }

    /// The known exports, in order, from the one at which a list continues. Leaves out, with a line in the log, those
    /// that cannot be reached, so that one server that is gone does not fail the lists of all others. `of` is an export
    /// that the list is about and that must be reached.
    ///
    /// # Errors
    /// The error of the first export, if a list that starts can reach none: an empty list would be wrong.
    pub(super) async fn reachable(
        &self,
        start: &Token,
        of: Option<(Source, MountOptions)>,
    ) -> Result<Vec<(Source, MountOptions)>> {
        let mut exports: BTreeMap<Source, MountOptions> = self.exports.known().into_iter().collect();
        let must = of.map(|(share, options)| {
            exports.entry(share.clone()).or_insert(options);
            share
        });
        exports.retain(|share, _| !start.is_after(share));
        let reach = async |(share, options): (Source, MountOptions)| {
            let reached = self.exports.pool().get(&share, &options).await.map(drop);
            (share, options, reached)
        };
        let (mut reachable, mut failed) = (Vec::new(), None);
        for (share, options, reached) in join_all(exports.into_iter().map(reach)).await {
            match reached {
                Err(error) if must.as_ref() == Some(&share) => return Err(error),
                Err(error) => {
                    leave_out(&share, &error);
                    failed.get_or_insert(error);
                }
                Ok(()) => reachable.push((share, options)),
            }
        }
        match failed {
            Some(error) if reachable.is_empty() && start.0.is_none() => Err(error),
            _ => Ok(reachable),
        }
    }
}

/// What was found on an export. If it cannot be listed, logs why and returns `None`: the list has the other exports.
pub(super) fn listed<T>(share: &Source, found: Result<T>) -> Option<T> {
    found.inspect_err(|error| leave_out(share, error)).ok()
}

fn leave_out(share: &Source, error: &Error) {
    tracing::warn!(export = %share, %error, "the export is left out of a list");
}

fn entry(record: &Record) -> csi::list_volumes_response::Entry {
    csi::list_volumes_response::Entry { volume: Some(answer(record)), status: None }
}

/// The entries that fit into one message, and where the list continues: behind them, or else at `next`. One entry
/// always fits.
pub(super) fn in_a_message<E: Message>(
    entries: Vec<(Source, VolumeName, E)>,
    next: Option<Token>,
) -> (Vec<E>, Option<Token>) {
    let (mut fit, mut bytes, mut last) = (Vec::new(), 0, None);
    for (share, name, entry) in entries {
        // An entry's tag and length take at most 6 bytes.
        bytes += entry.encoded_len() + 6;
        if bytes > MESSAGE && !fit.is_empty() {
            return (fit, last);
        }
        fit.push(entry);
        last = Some(Token::behind(&share, &name));
    }
    (fit, next)
}

/// The text of the token of the next page; empty if there is no next page.
pub(super) fn text(next: Option<&Token>) -> String {
    next.map_or_else(String::new, Token::to_string)
}

/// Where a list continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(Option<(Source, VolumeName)>);

impl Token {
    /// The list continues behind this name on this export.
    pub fn behind(share: &Source, name: &VolumeName) -> Self {
        Self(Some((share.clone(), name.clone())))
    }

    /// Parses a token. The empty token is the start of the list.
    ///
    /// # Errors
    /// [`Error::Token`] if the token is not from this driver.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let bad = || Error::Token("not a token of this driver".to_owned());
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let text = String::from_utf8(bytes).map_err(|_| bad())?;
        let [server, share, name] = text.split('#').collect::<Vec<_>>()[..] else { return Err(bad()) };
        let parsed = || -> Result<_> {
            let source = Source::share(Server::parse("", server)?, Share::parse_bare("", share)?);
            Ok((source, VolumeName::parse("", name)?))
        };
        parsed().map(|last| Self(Some(last))).map_err(|_| bad())
    }

    /// Whether the list continues after this export.
    pub fn is_after(&self, share: &Source) -> bool {
        self.0.as_ref().is_some_and(|(last, _)| last > share)
    }

    /// The last name of this export that was returned. The list continues with the next name.
    pub fn last_of(&self, share: &Source) -> Option<&VolumeName> {
        self.0.as_ref().filter(|(last, _)| last == share).map(|(_, name)| name)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((share, name)) = &self.0 else { return Ok(()) };
        let text = format!("{}#{}#{name}", share.server, share.share.as_str());
        f.write_str(&URL_SAFE_NO_PAD.encode(text))
    }
}

/// A page of a list: volumes, and data for each.
#[derive(Debug)]
pub struct Page<T> {
    max: usize,
    /// The export, the name, and the data.
    pub entries: Vec<(Source, VolumeName, T)>,
    /// Where the list continues; `None` if this is the last page.
    pub next: Option<Token>,
}

impl<T> Page<T> {
    /// An empty page for at most `max_entries` entries, and at most [`PAGE`]; 0 means no maximum of the caller's.
    pub fn new(max_entries: i32) -> Result<Self> {
        let max = usize::try_from(max_entries)
            .map_err(|_| Error::invalid("max_entries", format!("{max_entries} is negative")))?;
        let max = if max == 0 { PAGE } else { max.min(PAGE) };
        Ok(Self { max, entries: Vec::new(), next: None })
    }

    /// How many more entries fit on the page.
    pub fn room(&self) -> usize {
        self.max - self.entries.len()
    }

    /// Adds volumes of an export, which are sorted by name. Returns false if the page is full and volumes are left.
    pub fn take(&mut self, share: &Source, volumes: impl IntoIterator<Item = (VolumeName, T)>) -> bool {
        for (name, entry) in volumes {
            if self.room() == 0 {
                self.next = self.entries.last().map(|(share, name, _)| Token::behind(share, name));
                return false;
            }
            self.entries.push((share.clone(), name, entry));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn source(server: &str) -> Source {
        Source::share(Server::parse("server", server).unwrap(), Share::parse("share", "/export").unwrap())
    }

    fn named(names: &[&str]) -> Vec<(VolumeName, ())> {
        names.iter().map(|name| (VolumeName::parse("name", name).unwrap(), ())).collect()
    }

    #[test]
    fn a_token_says_where_the_list_continues() {
        let mut page = Page::new(2).unwrap();
        assert!(page.take(&source("a"), named(&["v1"])));
        assert!(!page.take(&source("b"), named(&["v2", "v3"])));
        let token = Token::parse(&text(page.next.as_ref())).unwrap();
        assert!(token.is_after(&source("a")) && !token.is_after(&source("b")) && !token.is_after(&source("c")));
        assert_eq!(token.last_of(&source("b")).unwrap().as_str(), "v2");
        assert_eq!(token.last_of(&source("c")), None);
    }

    #[test]
    fn a_page_with_all_entries_has_no_next_page() {
        let mut page = Page::new(2).unwrap();
        assert!(page.take(&source("a"), named(&["v1", "v2"])));
        assert_eq!(page.next, None);
        let mut page = Page::new(0).unwrap();
        assert!(page.take(&source("a"), named(&["v1", "v2", "v3"])));
        assert_eq!(page.entries.len(), 3);
        assert!(Page::<()>::new(-1).is_err());
    }

    #[rstest]
    #[case(0, PAGE)]
    #[case(7, 7)]
    #[case(i32::MAX, PAGE)]
    fn a_page_has_a_largest_size_whatever_is_asked_for(#[case] asked: i32, #[case] entries: usize) {
        let names: Vec<String> = (0..2 * PAGE).map(|n| format!("v{n:05}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut page = Page::new(asked).unwrap();
        assert!(!page.take(&source("a"), named(&names)));
        assert_eq!(page.entries.len(), entries);
        let last = VolumeName::parse("name", names[entries - 1]).unwrap();
        assert_eq!(page.next, Some(Token::behind(&source("a"), &last)));
    }

    #[test]
    fn a_message_stays_under_four_mebibytes_and_the_token_leads_to_what_did_not_fit() {
        let volume = csi::Volume { volume_id: "x".repeat(10_000), ..Default::default() };
        let entry = csi::list_volumes_response::Entry { volume: Some(volume), status: None };
        let name = |n: usize| VolumeName::parse("name", &format!("v{n:05}")).unwrap();
        let entries = (0..PAGE).map(|n| (source("a"), name(n), entry.clone())).collect();
        let (entries, next) = in_a_message(entries, None);
        assert_eq!(next, Some(Token::behind(&source("a"), &name(entries.len() - 1))));
        let message = csi::ListVolumesResponse { entries, next_token: text(next.as_ref()) };
        assert!((2 << 20..4 << 20).contains(&message.encoded_len()), "{}", message.encoded_len());
    }

    #[test]
    fn an_invalid_token_is_rejected() {
        for text in ["x", "invalid-token", "!", "YQ", "YSNiI2MjZA"] {
            assert!(matches!(Token::parse(text), Err(Error::Token(_))), "{text}");
        }
    }
}
