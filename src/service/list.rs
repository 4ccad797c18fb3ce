//! Pages of a list that goes over several exports.
//!
//! A list is in the order of export and name. A token names the last entry that was answered, so that it holds over a
//! restart, and however much was created or deleted meanwhile.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Error, Result};
use crate::mount::options::MountOptions;
use crate::mount::source::{Server, Share, Source};
use crate::volume::id::VolumeName;

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(Option<(Source, VolumeName)>);

impl Token {
    /// Parses a token; empty is the beginning of the list.
    ///
    /// # Errors
    /// [`Error::Token`] where it is none of this driver's.
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

    /// Whether the list goes on behind all of this export.
    pub fn is_after(&self, share: &Source) -> bool {
        self.0.as_ref().is_some_and(|(last, _)| last > share)
    }

    /// Those of an export's names, sorted, that are still to be listed.
    pub fn rest(&self, share: &Source, mut names: Vec<VolumeName>) -> Vec<VolumeName> {
        if let Some((last, after)) = &self.0
            && last == share
        {
            names.retain(|name| name > after);
        }
        names
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((share, name)) = &self.0 else { return Ok(()) };
        let text = format!("{}#{}#{name}", share.server, share.share.as_str());
        f.write_str(&URL_SAFE_NO_PAD.encode(text))
    }
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    max: usize,
    /// Its volumes: the export, the options to reach it by, the name.
    pub volumes: Vec<(Source, MountOptions, VolumeName)>,
    /// Where the next page starts; `None` after the last one.
    pub next: Option<Token>,
}

impl Page {
    /// An empty page for at most `max` entries; 0 for any number.
    pub fn new(max: usize) -> Self {
        Self { max, volumes: Vec::new(), next: None }
    }

    /// Adds the volumes of an export; false where the page is full and there are more.
    pub fn take(&mut self, share: &Source, options: &MountOptions, names: Vec<VolumeName>) -> bool {
        for name in names {
            if self.max > 0 && self.volumes.len() == self.max {
                self.next = self.volumes.last().map(|(share, _, name)| Token(Some((share.clone(), name.clone()))));
                return false;
            }
            self.volumes.push((share.clone(), options.clone(), name));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(server: &str) -> Source {
        Source::share(Server::parse("server", server).unwrap(), Share::parse("share", "/export").unwrap())
    }

    fn names(names: &[&str]) -> Vec<VolumeName> {
        names.iter().map(|name| VolumeName::parse("name", name).unwrap()).collect()
    }

    #[test]
    fn pages_follow_one_another_without_a_gap_or_a_repeat_whatever_changes_between_them() {
        let options = MountOptions::default();
        let mut page = Page::new(2);
        assert!(page.take(&source("a"), &options, names(&["v1"])));
        assert!(!page.take(&source("b"), &options, names(&["v2", "v3"])));
        let token = Token::parse(&page.next.unwrap().to_string()).unwrap();
        assert!(token.is_after(&source("a")) && !token.is_after(&source("b")) && !token.is_after(&source("c")));
        // v2, the last one listed, has gone; v25 has come.
        assert_eq!(token.rest(&source("b"), names(&["v1", "v25", "v3"])), names(&["v25", "v3"]));
        assert_eq!(token.rest(&source("c"), names(&["v1"])), names(&["v1"]));
    }

    #[test]
    fn a_page_that_holds_everything_has_no_next() {
        let mut page = Page::new(2);
        assert!(page.take(&source("a"), &MountOptions::default(), names(&["v1", "v2"])));
        assert!(page.next.is_none());
        let mut page = Page::new(0);
        assert!(page.take(&source("a"), &MountOptions::default(), names(&["v1", "v2", "v3"])));
        assert_eq!(page.volumes.len(), 3);
    }

    #[test]
    fn a_token_of_others_is_refused() {
        for text in ["x", "invalid-token", "!", "YQ", "YSNiI2MjZA"] {
            assert!(matches!(Token::parse(text), Err(Error::Token(_))), "{text}");
        }
    }
}
