//! Watches a directory on this machine with inotify(7), which also reports changes through knfsd.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::agent::calls;
use crate::error::{Error, Result};
use crate::export::fs::Name;
use crate::export::kernel::{KernelFs, KernelHandle};

/// A watched directory.
#[derive(Debug)]
pub struct Watch {
    inotify: AsyncFd<OwnedFd>,
}

/// The changes in a watched directory.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// Entries with these names were created, removed or replaced.
    Names(BTreeSet<Name>),
    /// More changed than inotify could report.
    Unknown,
}

impl Change {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Names(names) if names.is_empty())
    }
}

impl Watch {
    /// Watches a directory for entries that are created, moved or removed.
    pub async fn new(fs: &KernelFs, directory: &KernelHandle) -> Result<Self> {
        let failed = |what: &str, error: &dyn std::fmt::Display| Error::Internal(format!("inotify: {what}: {error}"));
        let watched = fs
            .with(directory, |directory| {
                let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
                let events = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
                // The path names the descriptor, so that the kernel resolves no path a second time.
                let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
                inotify::add_watch(&inotify, path, events | WatchFlags::ONLYDIR)?;
                Ok(inotify)
            })
            .await
            .map_err(|status| failed("watching a directory, which fs.inotify.max_user_watches limits", &status))?;
        Ok(Self { inotify: calls::readable(watched).map_err(|e| failed("waiting for changes", &e))? })
    }

    /// Waits for changes, and returns all that are queued. Cancel-safe.
    pub async fn changes(&self) -> Result<Change> {
        loop {
            let mut ready = self.inotify.readable().await.map_err(failed)?;
            match self.queued()? {
                Some(change) => return Ok(change),
                None => ready.clear_ready(),
            }
        }
    }

    /// The changes that are queued; `None` if there are none.
    pub fn queued(&self) -> Result<Option<Change>> {
        let mut names = BTreeSet::new();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = Reader::new(self.inotify.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => match event.file_name().map(|name| Name::new(name.to_bytes())) {
                    Some(Ok(name)) => drop(names.insert(name)),
                    // The queue overflowed, or the directory itself was removed.
                    _ => return Ok(Some(Change::Unknown)),
                },
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Some(Change::Names(names)).filter(|change| !change.is_empty())),
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::Internal(format!("inotify: {error}"))
}
