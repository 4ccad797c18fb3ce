//! An export in memory, for tests: a file system that behaves like XFS behind an NFSv4 server. It counts operations. At
//! any operation it can fail, lose the answer, or let the controller die. It can lose power with everything that was
//! not committed, delay operations, and let several controllers race.
//!
//! It differs from a real export in three ways. A removed file is gone at once even if a client has it open (there are
//! no `.nfs…` names), so handles of it are stale. Blocks of directories take no space. [`Fs::setattr`] is up to three
//! operations (owner, mode, times), as it is for the kernel's client; everything else is one operation.
//!
//! [`Fs::setattr`]: crate::export::fs::Fs::setattr

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::export::fs::{FsResult, Time};

mod client;
mod content;
mod data;
mod handle;
mod inode;
mod objects;
mod operations;
mod outside;
mod race;
mod state;
mod tree;

pub use client::{Crash, MemoryFs};
pub use handle::MemoryHandle;
pub use race::race;
pub use tree::{Node, Tree};

use state::State;

/// The server and its disk, which outlive controllers. A clone is the same server.
#[derive(Clone)]
pub struct MemoryServer {
    state: Arc<Mutex<State>>,
}

impl MemoryServer {
    /// An empty export with 1 TiB and a million inodes. Its root belongs to root and has mode 0755.
    pub fn new() -> Self {
        Self::with_capacity(1 << 40, 1_000_000)
    }

    /// An empty export with this capacity. The root directory uses one inode.
    pub fn with_capacity(bytes: u64, inodes: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(bytes, inodes))) }
    }

    /// Another server with the same content and without clients.
    pub fn copy(&self) -> Self {
        let mut state = self.state().clone();
        state.locks.clear();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Connects a new controller: a lock owner with its own operation count and its own faults.
    pub fn client(&self) -> MemoryFs {
        MemoryFs::new(Arc::clone(&self.state))
    }

    /// Loses power. Data that was not committed is lost, or kept if `keep_uncommitted` is set. All locks are released,
    /// and open files are stale. Clients continue. For a controller that lost power too, connect a new client.
    pub fn power_loss(&self, keep_uncommitted: bool) {
        self.state().power_loss(keep_uncommitted);
    }

    /// The whole content of the export.
    pub fn tree(&self) -> Tree {
        self.state().tree()
    }

    /// Puts an object at a path such as `team/app/file`, creating missing directories (of root, 0755), as root on the
    /// server would: permissions are not checked, and the content of a file is on stable storage.
    pub fn plant(&self, path: impl AsRef<[u8]>, node: Node) -> FsResult<()> {
        self.state().plant(path.as_ref(), &node)
    }

    /// Removes the object at a path, with everything in it, as root on the server would. Does nothing if no object is
    /// there.
    pub fn remove(&self, path: impl AsRef<[u8]>) -> FsResult<()> {
        self.state().remove(path.as_ref())
    }

    /// Sets whether the server refuses changes.
    pub fn set_read_only(&self, on: bool) {
        self.state().read_only = on;
    }

    /// Sets whether root is squashed. Operations then run as nobody (65534), with the permissions of that user.
    pub fn set_root_squash(&self, on: bool) {
        self.state().root_squash = on;
    }

    /// Sets whether the server supports CLONE, as XFS with reflink does and tmpfs does not.
    pub fn set_clone_supported(&self, on: bool) {
        self.state().abilities.clone = on;
    }

    /// Sets whether the server supports COPY.
    pub fn set_copy_supported(&self, on: bool) {
        self.state().abilities.copy = on;
    }

    /// Sets whether the server supports SEEK. Without it, the whole file counts as data.
    pub fn set_seek_supported(&self, on: bool) {
        self.state().abilities.seek = on;
    }

    /// Sets whether the server supports extended attributes.
    pub fn set_xattrs_supported(&self, on: bool) {
        self.state().abilities.xattrs = on;
    }

    /// Sets whether the server supports locks.
    pub fn set_locks_supported(&self, on: bool) {
        self.state().abilities.locks = on;
    }

    /// Sets the maximum number of names (hard links) of an object.
    pub fn set_most_links(&self, links: u64) {
        self.state().abilities.links = links;
    }

    /// Sets the capacity. If more is in use, the server refuses every operation that needs space.
    pub fn set_capacity(&self, bytes: u64, inodes: u64) {
        let mut state = self.state();
        (state.total_bytes, state.total_inodes) = (bytes, inodes);
    }

    /// Sets the server's clock. It starts in the year 2026 and advances by a microsecond with each change.
    pub fn set_clock(&self, now: Time) {
        self.state().clock = now;
    }

    /// The number of locks that all clients hold together.
    pub fn locks(&self) -> usize {
        self.state().locks.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

impl Default for MemoryServer {
    fn default() -> Self {
        Self::new()
    }
}

/// The locked value, even if a test panicked while it held the lock.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::time::Duration;

    use super::*;
    use crate::export::fs::{Fs, LockMode, Name, OpenMode, Status};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// Writes a record as a careful controller does.
    async fn record(fs: &MemoryFs) -> FsResult<()> {
        let root = fs.root();
        let (file, _) = fs.create(&root, &name("new"), 0o600).await?;
        fs.write(&file, 0, b"whole".to_vec()).await?;
        fs.commit(&file).await?;
        fs.rename(&root, &name("new"), &root, &name("record")).await
    }

    #[tokio::test]
    async fn what_was_not_committed_goes_with_the_power() {
        for (kept, expected) in [(false, "old"), (true, "new")] {
            let server = MemoryServer::new();
            server.plant("f", Node::file(0o644, "old")).unwrap();
            let fs = server.client();
            let (file, _) = fs.open(&fs.root(), &name("f"), OpenMode::ReadWrite).await.unwrap();
            fs.write(&file, 0, b"new".to_vec()).await.unwrap();
            server.power_loss(kept);
            assert_eq!(server.tree().get("f").unwrap().text(), expected);
            assert_eq!(fs.commit(&file).await, Err(Status::Stale), "a commit does not confirm lost data");
        }
    }

    #[tokio::test]
    async fn a_crash_at_every_operation_leaves_what_came_before() {
        let whole = MemoryServer::new().client();
        record(&whole).await.unwrap();
        assert_eq!(whole.history()[0], "create new");
        let mut seen = Vec::new();
        for n in 0..whole.operations() {
            for when in [Crash::BeforeEffect, Crash::AfterEffect] {
                let server = MemoryServer::new();
                let fs = server.client();
                fs.crash_at(n, when);
                assert_eq!(record(&fs).await, Err(Status::TimedOut));
                assert_eq!(fs.getattr(&fs.root()).await, Err(Status::TimedOut), "a dead controller stays dead");
                server.power_loss(false);
                seen.push(server.tree().0.into_iter().map(|(path, node)| (path, node.content)).collect::<Vec<_>>());
            }
        }
        let (nothing, empty) = (vec![], vec![(b"new".to_vec(), b"".to_vec())]);
        let (new, done) = (vec![(b"new".to_vec(), b"whole".to_vec())], vec![(b"record".to_vec(), b"whole".to_vec())]);
        assert_eq!(seen, [&nothing, &empty, &empty, &empty, &empty, &new, &new, &done].map(Clone::clone));
    }

    #[tokio::test]
    async fn a_fault_hits_its_operation_alone() {
        let server = MemoryServer::new();
        let fs = server.client();
        fs.fail_at(0, Status::NoSpc);
        fs.lose_answer_at(1);
        let mkdir = || async { fs.mkdir(&fs.root(), &name("d"), 0o700).await.map(drop) };
        assert_eq!(mkdir().await, Err(Status::NoSpc));
        assert_eq!(mkdir().await, Err(Status::TimedOut));
        assert_eq!(mkdir().await, Err(Status::Exist));
        assert_eq!((fs.operations(), fs.history().len()), (3, 3));
    }

    #[tokio::test]
    async fn a_lock_ends_with_its_holder() {
        let server = MemoryServer::new();
        server.plant("locks", Node::file(0o600, "")).unwrap();
        let (one, two) = (server.client(), server.client());
        let (root, locks) = (one.root(), name("locks"));
        let (theirs, _) = two.open(&root, &locks, OpenMode::ReadWrite).await.unwrap();
        for end in ["close", "crash", "power"] {
            let one = if end == "crash" { server.client() } else { one.clone() };
            let (file, _) = one.open(&root, &locks, OpenMode::ReadWrite).await.unwrap();
            assert_eq!(one.try_lock(&file, 7, LockMode::Exclusive).await, Ok(true));
            assert_eq!(two.try_lock(&theirs, 7, LockMode::Exclusive).await, Ok(false), "{end}");
            match end {
                "close" => drop(file),
                "crash" => one.crash(),
                _ => server.power_loss(false),
            }
            assert_eq!(server.locks(), 0, "{end}");
        }
        assert_eq!(
            two.try_lock(&theirs, 7, LockMode::Exclusive).await,
            Err(Status::Stale),
            "opened before the loss of power"
        );
    }

    #[tokio::test]
    async fn a_read_only_export_refuses_every_change() {
        let server = MemoryServer::new();
        server.plant("d/f", Node::file(0o644, "x")).unwrap();
        server.set_read_only(true);
        let (before, fs) = (server.tree(), server.client());
        let root = fs.root();
        let (d, _) = fs.lookup(&root, &name("d")).await.unwrap();
        let refused = [
            fs.mkdir(&root, &name("n"), 0o755).await.map(drop),
            fs.create(&d, &name("n"), 0o644).await.map(drop),
            fs.open(&d, &name("f"), OpenMode::ReadWrite).await.map(drop),
            fs.rename(&d, &name("f"), &root, &name("f")).await,
            fs.unlink(&d, &name("f")).await,
            fs.setattr(&d, crate::export::fs::SetAttr { mode: Some(0o777), ..Default::default() }).await,
        ];
        assert_eq!(refused, [Err(Status::RoFs); 6]);
        let (file, _) = fs.open(&d, &name("f"), OpenMode::Read).await.unwrap();
        assert_eq!(fs.read(&file, 0, 9).await.unwrap(), b"x");
        assert_eq!(server.tree(), before);
    }

    #[tokio::test]
    async fn a_squashed_root_does_what_the_modes_grant_to_nobody() {
        let server = MemoryServer::new();
        server.plant("private", Node::directory(0o700)).unwrap();
        server.plant("open", Node::directory(0o1777)).unwrap();
        server.plant("open/theirs", Node::file(0o600, "x").owned_by(1000, 1000)).unwrap();
        server.set_root_squash(true);
        let fs = server.client();
        let root = fs.root();
        let (private, _) = fs.lookup(&root, &name("private")).await.unwrap();
        let (open, _) = fs.lookup(&root, &name("open")).await.unwrap();
        assert_eq!(fs.mkdir(&root, &name("n"), 0o755).await.unwrap_err(), Status::Access);
        assert_eq!(fs.lookup(&private, &name("n")).await.unwrap_err(), Status::Access);
        assert_eq!(fs.readdir(&private, 0).await.unwrap_err(), Status::Access);
        assert_eq!(fs.open(&open, &name("theirs"), OpenMode::Read).await.unwrap_err(), Status::Access);
        assert_eq!(fs.unlink(&open, &name("theirs")).await, Err(Status::Perm), "the sticky bit protects the file");
        let (own, _) = fs.mkdir(&open, &name("own"), 0o755).await.unwrap();
        assert_eq!(fs.getattr(&own).await.unwrap().uid, 65534);
        let give = crate::export::fs::SetAttr { uid: Some(0), ..Default::default() };
        assert_eq!(fs.setattr(&own, give).await, Err(Status::Perm));
        fs.rmdir(&open, &name("own")).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_export_refuses_what_takes_room_and_takes_it_again_when_there_is_some() {
        let server = MemoryServer::with_capacity(8192, 3);
        let fs = server.client();
        let root = fs.root();
        let (file, _) = fs.create(&root, &name("f"), 0o600).await.unwrap();
        fs.mkdir(&root, &name("d"), 0o700).await.unwrap();
        assert_eq!(fs.mkdir(&root, &name("e"), 0o700).await.unwrap_err(), Status::NoSpc, "inodes");
        fs.write(&file, 0, vec![1; 8192]).await.unwrap();
        assert_eq!(fs.write(&file, 8192, vec![1]).await, Err(Status::NoSpc), "bytes");
        fs.write(&file, 0, vec![2; 8192]).await.unwrap();
        let stat = fs.statfs(&root).await.unwrap();
        assert_eq!((stat.total_bytes, stat.free_bytes, stat.total_inodes, stat.free_inodes), (8192, 0, 3, 0));
        fs.unlink(&root, &name("f")).await.unwrap();
        assert_eq!(fs.statfs(&root).await.unwrap().available_bytes, 8192);
        fs.create(&root, &name("g"), 0o600).await.unwrap();
    }

    #[tokio::test]
    async fn two_controllers_that_create_the_same_name_meet_in_every_order() {
        let mut winners = std::collections::HashSet::new();
        for seed in 0..32 {
            let server = MemoryServer::new();
            let racers = (0..2).map(|_| {
                let fs = server.client();
                fs.interleave(true);
                Box::pin(async move { record(&fs).await }) as Pin<Box<dyn Future<Output = FsResult<()>> + Send>>
            });
            let results = race(seed, racers.collect()).await;
            assert_eq!(server.tree().paths(), ["record"]);
            winners.insert(results);
        }
        let (won, lost) = (Ok(()), Err(Status::Exist));
        assert_eq!(winners, [vec![won, lost], vec![lost, won], vec![won, won]].into());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_spent_on_the_clock_of_tokio() {
        let fs = MemoryServer::new().client();
        fs.delay(Duration::from_secs(2));
        let begin = tokio::time::Instant::now();
        fs.getattr(&fs.root()).await.unwrap();
        fs.statfs(&fs.root()).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::from_secs(4));
    }
}
