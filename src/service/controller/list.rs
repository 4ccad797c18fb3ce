//! Pages of a list over several exports.
//!
//! A list is sorted by export and name. A token names the last entry that was returned. So it stays valid after a
//! restart, and when entries are created or deleted meanwhile.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

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

/// How many records are read at a time.
const READS: usize = 16;

impl<C: Connect> Controller<C> {
    pub(super) async fn list(&self, request: csi::ListVolumesRequest) -> Result<csi::ListVolumesResponse> {
        let (start, mut page) = (Token::parse(&request.starting_token)?, Page::new(request.max_entries)?);
        for (share, options) in self.exports.pool().known() {
            if start.is_after(&share) {
                continue;
            }
            let mut names =
                self.exports.on(&share, &options, |export| async move { Record::names(&export).await }).await?;
            names.retain(|name| start.last_of(&share).is_none_or(|last| name > last));
            if !page.take(&share, names.into_iter().map(|name| (name, options.clone())).collect()) {
                break;
            }
        }
        let next_token = page.next_token();
        let read = async |(share, name, options): (Source, VolumeName, MountOptions)| {
            let read = |export: Arc<Export<C::Fs>>| {
                let name = name.clone();
                async move { Record::read_or_skip(&export, &name).await }
            };
            self.exports.on(&share, &options, read).await
        };
        let records: Vec<Option<Record>> = stream::iter(page.entries).map(read).buffered(READS).try_collect().await?;
        // A volume that was deleted meanwhile is not listed.
        let listed = |record| csi::list_volumes_response::Entry { volume: Some(answer(&record)), status: None };
        Ok(csi::ListVolumesResponse {
            entries: records.into_iter().flatten().filter(|record| !record.pending).map(listed).collect(),
            next_token,
        })
    }
}

/// Where a list continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(Option<(Source, VolumeName)>);

impl Token {
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
    max: Option<usize>,
    /// The export, the name, and the data.
    pub entries: Vec<(Source, VolumeName, T)>,
    next: Option<Token>,
}

impl<T> Page<T> {
    /// An empty page for at most `max_entries` entries; 0 means no maximum.
    pub fn new(max_entries: i32) -> Result<Self> {
        let max = usize::try_from(max_entries)
            .map_err(|_| Error::invalid("max_entries", format!("{max_entries} is negative")))?;
        Ok(Self { max: Some(max).filter(|&max| max > 0), entries: Vec::new(), next: None })
    }

    /// How many more entries fit on the page.
    pub fn room(&self) -> usize {
        self.max.map_or(usize::MAX, |max| max - self.entries.len())
    }

    /// Adds volumes of an export, which are sorted by name. Returns false if the page is full and volumes are left.
    pub fn take(&mut self, share: &Source, volumes: Vec<(VolumeName, T)>) -> bool {
        for (name, entry) in volumes {
            if self.room() == 0 {
                self.next = self.entries.last().map(|(share, name, _)| Token(Some((share.clone(), name.clone()))));
                return false;
            }
            self.entries.push((share.clone(), name, entry));
        }
        true
    }

    /// The token of the next page; empty if this is the last page.
    pub fn next_token(&self) -> String {
        self.next.as_ref().map_or_else(String::new, Token::to_string)
    }
}

#[cfg(test)]
mod tests {
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
        let token = Token::parse(&page.next_token()).unwrap();
        assert!(token.is_after(&source("a")) && !token.is_after(&source("b")) && !token.is_after(&source("c")));
        assert_eq!(token.last_of(&source("b")).unwrap().as_str(), "v2");
        assert_eq!(token.last_of(&source("c")), None);
    }

    #[test]
    fn a_page_with_all_entries_has_no_next_page() {
        let mut page = Page::new(2).unwrap();
        assert!(page.take(&source("a"), named(&["v1", "v2"])));
        assert_eq!(page.next_token(), "");
        let mut page = Page::new(0).unwrap();
        assert!(page.take(&source("a"), named(&["v1", "v2", "v3"])));
        assert_eq!(page.entries.len(), 3);
        assert!(Page::<()>::new(-1).is_err());
    }

    #[test]
    fn an_invalid_token_is_rejected() {
        for text in ["x", "invalid-token", "!", "YQ", "YSNiI2MjZA"] {
            assert!(matches!(Token::parse(text), Err(Error::Token(_))), "{text}");
        }
    }
}
