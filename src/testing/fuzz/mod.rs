//! The targets of `make fuzz`: each feeds bytes to a parser of hostile input, and panics if what comes out breaks a
//! promise of the driver.
//!
//! `fuzz/` has a program for each target, and its corpus. The tests feed each target its corpus once.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a target tells of a fault")]

mod archives;
mod exports;
mod identifiers;
mod mounts;
mod nfs4;
mod requests;

use std::future::Future;

use crate::error::Error;
use crate::nfs::source::{Server, Share, Source};

/// A target: the name of its program, and what it does with the program's input.
pub type Target = (&'static str, fn(&[u8]));

/// Declares the functions of targets, and lists them.
macro_rules! targets {
    ($($module:ident: $($target:ident),+;)+) => {
        $(pub use $module::{$($target),+};)+

        /// All targets.
        pub const TARGETS: &[Target] = &[$($((stringify!($target), $target)),+),+];
    };
}

targets! {
    archives: archive, gzip;
    exports: acl, private_directory, record;
    identifiers: list_token, snapshot_id, volume_id;
    mounts: mount_table, rpc;
    nfs4: nfs4_answer;
    requests: class_parameters, mount_options, publish_request, source;
}

/// The most bytes of a message, whatever it is about: a few excerpts (`nfs/text.rs`) of characters that are escaped.
const MESSAGE: usize = 8 << 10;

/// A message about hostile input is short, and cannot affect a log or a terminal.
fn assert_presentable(error: &Error) {
    let message = error.to_string();
    assert!(message.len() <= MESSAGE, "a message of {} bytes", message.len());
    assert!(!message.contains(char::is_control), "{message:?}");
}

/// A path below a share stays there, and can be a part of an identifier.
fn assert_below(path: &str) {
    assert!(path.split('/').all(|name| !matches!(name, "" | "." | "..") && name.len() <= 255), "{path:?}");
    assert!(!path.contains(|c: char| c == '#' || c.is_control()), "{path:?}");
}

/// The share `nfs:/export`.
fn export() -> Source {
    Source::share(Server::parse("", "nfs").unwrap(), Share::parse("", "/export").unwrap())
}

/// Runs a future on this thread.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn inside(directory: &str) -> Vec<PathBuf> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(directory);
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn every_target_accepts_its_corpus() {
        for (name, target) in TARGETS {
            for file in inside(&format!("corpus/{name}")) {
                println!("{}", file.display());
                target(&fs::read(file).unwrap());
            }
        }
    }

    #[test]
    fn every_target_has_a_program_and_a_corpus() {
        let names = |directory: &str| -> BTreeSet<String> {
            inside(directory).iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
        };
        let expected: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names("fuzz_targets"), expected);
        assert_eq!(names("corpus"), expected);
    }
}
