//! Pages of a list over several exports.
//!
//! A list is sorted by export. A token says where the pages so far have ended: behind a name, or at a position of the
//! server in the directory of records. So it stays valid after a restart, and when entries are created or deleted
//! meanwhile, and a page costs the same however many volumes an export has.
//!
//! A page is bounded whatever the caller asks for ([`PAGE`], [`MESSAGE`]), as CSI allows ("max_entries").

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use futures_util::stream::TryStreamExt as _;
use prost::Message;

use super::Controller;
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::Cookie;
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
            // One more than fits shows that the list goes on.
            let (from, most) = (start.cookie_of(&share), page.room() + 1);
            let names = |export: Arc<Export<C::Fs>>| async move { Record::some_names(&export, from, most).await };
            let names = listed(&share, self.exports.on(&share, &options, names).await)?.unwrap_or_default();
            let named = |(name, cookie)| (Position::At(cookie), (name, options.clone()));
            if !page.take(&share, names.into_iter().map(named)) {
                break;
            }
        }
        let mut entries = Vec::with_capacity(page.entries.len());
        for on_one in page.entries.chunk_by(|(one, ..), (next, ..)| one == next) {
            let Some((share, _, (_, options))) = on_one.first() else { continue };
            let read = |export: Arc<Export<C::Fs>>| async move {
                let names = on_one.iter().map(|(_, _, (name, _))| name.clone()).collect();
                Record::read_or_skip_each(&export, names).try_collect::<Vec<_>>().await
            };
            let read = self.exports.on(share, options, read).await?;
            // A volume that was deleted meanwhile, or that is still being filled, is not listed.
            let whole = read.into_iter().zip(on_one).filter_map(|((_, record), (_, position, _))| {
                let record = record.filter(|record| !record.pending)?;
                Some((share.clone(), position.clone(), entry(&record)))
            });
            entries.extend(whole);
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
///
/// # Errors
/// [`Error::Token`]: the caller has to list again.
pub(super) fn listed<T>(share: &Source, found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(error @ Error::Token(_)) => Err(error),
        found => Ok(found.inspect_err(|error| leave_out(share, error)).ok()),
    }
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
    entries: Vec<(Source, Position, E)>,
    next: Option<Token>,
) -> (Vec<E>, Option<Token>) {
    let (mut fit, mut bytes, mut last) = (Vec::new(), 0, None);
    for (share, position, entry) in entries {
        // An entry's tag and length take at most 6 bytes.
        bytes += entry.encoded_len() + 6;
        if bytes > MESSAGE && !fit.is_empty() {
            return (fit, last);
        }
        fit.push(entry);
        last = Some(Token::new(&share, position));
    }
    (fit, next)
}

/// The text of the token of the next page; empty if there is no next page.
pub(super) fn text(next: Option<&Token>) -> String {
    next.map_or_else(String::new, Token::to_string)
}

/// A position in the list of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// Behind this name, in a list that is sorted by name.
    Behind(VolumeName),
    /// At this position of the server in the directory of records.
    At(Cookie),
}

/// Where a list continues: at a position on an export; `None` at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(Option<(Source, Position)>);

impl Token {
    /// The list continues there on this export.
    pub fn new(share: &Source, position: Position) -> Self {
        Self(Some((share.clone(), position)))
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
        let parts: Vec<&str> = text.split('#').collect();
        let (server, share, position) = match parts[..] {
            [server, share, name] => (server, share, VolumeName::parse("", name).map(Position::Behind)),
            [server, share, "", cookie] => (server, share, cookie.parse().map(Position::At).map_err(|_| bad())),
            _ => return Err(bad()),
        };
        let source = || Ok(Source::share(Server::parse("", server)?, Share::parse_bare("", share)?));
        source().and_then(|source| Ok(Self(Some((source, position?))))).map_err(|_: Error| bad())
    }

    /// Whether the list continues after this export.
    pub fn is_after(&self, share: &Source) -> bool {
        self.0.as_ref().is_some_and(|(last, _)| last > share)
    }

    /// The last name of this export that was returned, in a list that is sorted by name.
    pub fn last_of(&self, share: &Source) -> Option<&VolumeName> {
        match self.0.as_ref().filter(|(last, _)| last == share) {
            Some((_, Position::Behind(name))) => Some(name),
            _ => None,
        }
    }

    /// The position of the server from which this export's list goes on; 0 is its beginning.
    pub fn cookie_of(&self, share: &Source) -> Cookie {
        match self.0.as_ref().filter(|(last, _)| last == share) {
            Some((_, Position::At(cookie))) => *cookie,
            _ => 0,
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((Source { server, share, .. }, position)) = &self.0 else { return Ok(()) };
        let text = match position {
            Position::Behind(name) => format!("{server}#{}#{name}", share.as_str()),
            Position::At(cookie) => format!("{server}#{}##{cookie}", share.as_str()),
        };
        f.write_str(&URL_SAFE_NO_PAD.encode(text))
    }
}

/// A page of a list: volumes or snapshots, and data for each.
#[derive(Debug)]
pub struct Page<T> {
    max: usize,
    /// The export, the position behind the entry, and the data.
    pub entries: Vec<(Source, Position, T)>,
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

    /// Adds entries of an export, in its order. Returns false if the page is full and entries are left.
    pub fn take(&mut self, share: &Source, entries: impl IntoIterator<Item = (Position, T)>) -> bool {
        for (position, entry) in entries {
            if self.room() == 0 {
                self.next = self.entries.last().map(|(share, position, _)| Token::new(share, position.clone()));
                return false;
            }
            self.entries.push((share.clone(), position, entry));
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

    fn behind(name: &str) -> Position {
        Position::Behind(VolumeName::parse("name", name).unwrap())
    }

    fn named(names: &[&str]) -> Vec<(Position, ())> {
        names.iter().map(|name| (behind(name), ())).collect()
    }

    #[test]
    fn a_token_says_where_the_list_continues() {
        let mut page = Page::new(2).unwrap();
        assert!(page.take(&source("a"), named(&["v1"])));
        assert!(!page.take(&source("b"), named(&["v2", "v3"])));
        let token = Token::parse(&text(page.next.as_ref())).unwrap();
        assert!(token.is_after(&source("a")) && !token.is_after(&source("b")) && !token.is_after(&source("c")));
        assert_eq!(token.last_of(&source("b")).unwrap().as_str(), "v2");
        assert_eq!((token.last_of(&source("c")), token.cookie_of(&source("b"))), (None, 0));
        let token = Token::new(&source("b"), Position::At(u64::MAX));
        assert_eq!(Token::parse(&token.to_string()), Ok(token.clone()));
        assert_eq!(token.last_of(&source("b")), None);
        assert_eq!(["a", "b"].map(|server| token.cookie_of(&source(server))), [0, u64::MAX]);
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
        assert_eq!(page.next, Some(Token::new(&source("a"), behind(names[entries - 1]))));
    }

    #[test]
    fn a_message_stays_under_four_mebibytes_and_the_token_leads_to_what_did_not_fit() {
        let volume = csi::Volume { volume_id: "x".repeat(10_000), ..Default::default() };
        let entry = csi::list_volumes_response::Entry { volume: Some(volume), status: None };
        let entries = (0..PAGE).map(|n| (source("a"), Position::At(n as u64), entry.clone())).collect();
        let (entries, next) = in_a_message(entries, None);
        assert_eq!(next, Some(Token::new(&source("a"), Position::At(entries.len() as u64 - 1))));
        let message = csi::ListVolumesResponse { entries, next_token: text(next.as_ref()) };
        assert!((2 << 20..4 << 20).contains(&message.encoded_len()), "{}", message.encoded_len());
    }

    #[test]
    fn an_invalid_token_is_rejected() {
        for text in ["x", "invalid-token", "!", "YQ", "YSNiI2MjZA", "YSMvYiMjeA"] {
            assert!(matches!(Token::parse(text), Err(Error::Token(_))), "{text}");
        }
    }
}
