//! Making what an archive holds, below a directory that nobody else works in.
//!
//! Every member is made by a walk from that directory, name by name, on handles: what is no directory is never gone through,
//! so that no link that the archive made leads anywhere. A directory gets its attributes when the archive has left it.
//! Files that fit into memory are made several at once; as much is in flight as in a copy of a tree.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Stop;
use crate::export::copy::{Progress, difference};
use crate::export::fs::{Attr, Fs, FsResult, Kind, Name, SetAttr, Status};
use crate::snapshot::archive::members::{Content, Member, Members, What};

/// Files up to this size are taken into memory.
const SMALL: u64 = 256 << 10;
/// As much of a larger one is written at once, and as much before it is committed.
const CHUNK: usize = 1 << 20;
const PART: u64 = 32 << 20;
/// Levels whose directories are kept open; from those below, the way back leads over their parents.
const OPEN: usize = 64;
/// Names of one directory that may be in flight, or have been since they last were waited for.
const NAMES: usize = 4096;

/// A file to be made of what is in memory.
struct Job<F: Fs> {
    dir: F::Handle,
    path: String,
    name: Name,
    attr: Attr,
    content: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

/// A directory on the way to where members are made.
struct Level<F: Fs> {
    name: Option<Name>,
    /// Kept down to [`OPEN`] levels.
    dir: Option<F::Handle>,
    /// What it gets when it is left.
    attr: SetAttr,
}

struct Unpacker<'a, F: Fs> {
    fs: &'a F,
    progress: &'a Progress,
    /// Never empty: the first is the root.
    levels: Vec<Level<F>>,
    here: F::Handle,
    root: F::Handle,
    jobs: mpsc::Sender<Job<F>>,
    permits: Arc<Semaphore>,
    in_flight: u32,
    /// The names that may be in flight in the directory at hand.
    names: HashSet<Name>,
    /// Bytes that may still be written.
    room: u64,
}

/// Makes all members below `to`, which is empty, of at most `limit` bytes, `in_flight` at once.
pub(super) async fn unpack<F: Fs>(
    members: &mut Members<F>,
    fs: &F,
    to: &F::Handle,
    (limit, in_flight): (u64, usize),
    progress: &Progress,
) -> Result<(), Stop> {
    let (jobs, queue) = mpsc::channel(1);
    let in_flight = u32::try_from(in_flight.max(1)).unwrap_or(u32::MAX);
    let mut unpacker = Unpacker {
        fs,
        progress,
        levels: vec![Level {
            name: None,
            dir: Some(to.clone()),
            attr: SetAttr { mode: Some(0o755), ..SetAttr::default() },
        }],
        here: to.clone(),
        root: to.clone(),
        jobs,
        permits: Arc::new(Semaphore::new(in_flight as usize)),
        in_flight,
        names: HashSet::new(),
        room: limit,
    };
    let read = async {
        while let Some(member) = members.next().await? {
            unpacker.make(member, members).await?;
        }
        unpacker.finish().await
    };
    let queue = futures_util::stream::unfold(queue, async |mut queue| queue.recv().await.map(|job| (job, queue)));
    let write = async {
        let made = queue.map(|job| file(fs, job)).buffer_unordered(in_flight as usize);
        let mut made = std::pin::pin!(made);
        while let Some(bytes) = made.next().await {
            progress.bytes(bytes?);
            progress.entry();
        }
        Ok(())
    };
    futures_util::future::try_join(read, write).await.map(drop)
}

/// Makes a file; answers its bytes.
async fn file<F: Fs>(fs: &F, job: Job<F>) -> Result<u64, Stop> {
    let Job { dir, path, name, attr, content, _permit } = job;
    let bytes = content.len() as u64;
    let make = fs.in_one_go(move |fs| async move {
        let (file, made) = create(&fs, &dir, &name, attr.mode).await?;
        if !content.is_empty() {
            fs.write(&file, 0, content).await?;
            fs.commit(&file).await?;
        }
        fs.setattr(&file, difference(&attr, &made)).await
    });
    make.await.flatten().map_err(|status| Stop::making(&path, status))?;
    Ok(bytes)
}

/// Creates a file, in place of what has its name.
async fn create<F: Fs>(fs: &F, dir: &F::Handle, name: &Name, mode: u32) -> FsResult<(F::Handle, Attr)> {
    match fs.create(dir, name, mode & 0o777).await {
        Err(Status::Exist) => {
            fs.unlink(dir, name).await?;
            fs.create(dir, name, mode & 0o777).await
        }
        created => created,
    }
}

impl<F: Fs> Unpacker<'_, F> {
    /// Makes a member.
    async fn make(&mut self, member: Member, members: &mut Members<F>) -> Result<(), Stop> {
        let Member { path, what, attr } = member;
        let Some((name, above)) = path.split_last() else {
            self.enter(&[]).await?;
            self.levels[0].attr = set_attr(&attr);
            return Ok(());
        };
        self.enter(above).await?;
        let shown = shown(&path);
        let failed = |status| Stop::making(&shown, status);
        if self.names.contains(name) || self.names.len() >= NAMES {
            self.settle().await?;
        }
        match what {
            What::File(content) => {
                self.room = self.room.checked_sub(content.stored).ok_or(Stop::TooLarge)?;
                if content.size <= SMALL && content.stored == content.size {
                    self.small(name, attr, &content, shown, members).await?;
                } else {
                    self.large(name, attr, content, &shown, members).await?;
                    self.progress.entry();
                }
                return Ok(());
            }
            What::Directory => {
                self.directory(name, &attr, &shown).await?;
                return Ok(());
            }
            What::Link(target) => {
                self.settle().await?;
                self.link(&target, name, &shown).await?;
            }
            what @ (What::Symlink(_) | What::Special) => {
                let (made, is) = self.instead(name, &what, &attr).await.map_err(failed)?;
                self.fs.setattr(&made, difference(&attr, &is)).await.map_err(failed)?;
            }
        }
        self.progress.entry();
        Ok(())
    }

    /// Makes what is no file, in place of what has its name, unless that is a directory.
    async fn instead(&self, name: &Name, what: &What, attr: &Attr) -> FsResult<(F::Handle, Attr)> {
        match self.create(name, what, attr).await {
            Err(Status::Exist) => {
                self.fs.unlink(&self.here, name).await?;
                self.create(name, what, attr).await
            }
            made => made,
        }
    }

    async fn create(&self, name: &Name, what: &What, attr: &Attr) -> FsResult<(F::Handle, Attr)> {
        match what {
            What::Symlink(target) => self.fs.symlink(&self.here, name, target).await,
            What::Special => self.fs.mknod(&self.here, name, attr.kind, attr.mode & 0o777, attr.device).await,
            _ => self.fs.mkdir(&self.here, name, 0o700).await,
        }
    }

    async fn small(
        &mut self,
        name: &Name,
        attr: Attr,
        content: &Content,
        path: String,
        members: &mut Members<F>,
    ) -> Result<(), Stop> {
        let mut bytes = Vec::with_capacity(usize::try_from(content.size).unwrap_or_default());
        while (bytes.len() as u64) < content.size {
            bytes.extend_from_slice(members.data(usize::MAX).await?);
        }
        let _permit = self.permits.clone().acquire_owned().await.map_err(|_| Stop::Ended)?;
        self.names.insert(name.clone());
        let job = Job { dir: self.here.clone(), path, name: name.clone(), attr, content: bytes, _permit };
        // An error would mean that who makes files has ended, with the error that counts.
        self.jobs.send(job).await.map_err(|_| Stop::Ended)
    }

    async fn large(
        &self,
        name: &Name,
        attr: Attr,
        content: Content,
        path: &str,
        members: &mut Members<F>,
    ) -> Result<(), Stop> {
        let failed = |status| Stop::making(path, status);
        let (file, made) = create(self.fs, &self.here, name, attr.mode).await.map_err(failed)?;
        let (mut end, mut part) = (0, 0);
        for (offset, length) in content.parts {
            let mut at = offset;
            end = offset + length;
            while at < end {
                let length = CHUNK.min(usize::try_from(end - at).unwrap_or(CHUNK));
                let mut chunk = Vec::with_capacity(length);
                while chunk.len() < length {
                    chunk.extend_from_slice(members.data(length - chunk.len()).await?);
                }
                self.fs.write(&file, at, chunk).await.map_err(failed)?;
                (at, part) = (at + length as u64, part + length as u64);
                self.progress.bytes(length as u64);
                if part >= PART {
                    self.fs.commit(&file).await.map_err(failed)?;
                    part = 0;
                }
            }
        }
        self.fs.commit(&file).await.map_err(failed)?;
        let size = (end != content.size).then_some(content.size);
        self.fs.setattr(&file, SetAttr { size, ..difference(&attr, &made) }).await.map_err(failed)
    }

    async fn directory(&mut self, name: &Name, attr: &Attr, path: &str) -> Result<(), Stop> {
        let failed = |status| Stop::making(path, status);
        let dir = match self.create(name, &What::Directory, attr).await {
            Err(Status::Exist) => match self.fs.lookup(&self.here, name).await.map_err(failed)? {
                (dir, is) if is.kind == Kind::Directory => dir,
                other => {
                    drop(other);
                    self.instead(name, &What::Directory, attr).await.map_err(failed)?.0
                }
            },
            made => {
                self.progress.entry();
                made.map_err(failed)?.0
            }
        };
        self.descend(name, dir, set_attr(attr));
        Ok(())
    }

    /// One more name for what an earlier member made.
    async fn link(&mut self, target: &[Name], name: &Name, path: &str) -> Result<(), Stop> {
        let bad = |why: &str| Stop::damaged(&format!("has a hard link `{path}` to `{}`, {why}", shown(target)));
        let failed = |status| match status {
            Status::NoEnt => bad("which is not in the archive before it"),
            status => Stop::making(path, status),
        };
        let Some((last, above)) = target.split_last() else { return Err(bad("which is a directory")) };
        let mut dir = self.root.clone();
        for (depth, name) in above.iter().enumerate() {
            let (next, attr) = self.fs.lookup(&dir, name).await.map_err(failed)?;
            if attr.kind != Kind::Directory {
                return Err(through(&shown(&target[..=depth])));
            }
            dir = next;
        }
        let (object, attr) = self.fs.lookup(&dir, last).await.map_err(failed)?;
        if attr.kind == Kind::Directory {
            return Err(bad("which is a directory"));
        }
        match self.fs.link(&object, &self.here, name).await {
            Err(Status::Exist) => {
                let (_, there) = self.fs.lookup(&self.here, name).await.map_err(failed)?;
                if there.fileid == attr.fileid {
                    return Ok(());
                }
                self.fs.unlink(&self.here, name).await.map_err(failed)?;
                self.fs.link(&object, &self.here, name).await.map_err(failed)
            }
            linked => linked.map_err(failed),
        }
    }

    /// Goes to the directory at that path from the root. What is missing of it is made.
    async fn enter(&mut self, path: &[Name]) -> Result<(), Stop> {
        let common = self.levels[1..].iter().zip(path).take_while(|(level, name)| level.name.as_ref() == Some(name));
        let common = common.count() + 1;
        while self.levels.len() > common {
            self.leave().await?;
        }
        for (depth, name) in path.iter().enumerate().skip(common - 1) {
            let failed = |status| Stop::making(&shown(&path[..=depth]), status);
            if self.names.contains(name) {
                self.settle().await?;
            }
            match self.fs.lookup(&self.here, name).await {
                Ok((dir, attr)) if attr.kind == Kind::Directory => {
                    // It was left before, with all its attributes; what is made in it now moves its times.
                    let times = SetAttr { atime: Some(attr.atime), mtime: Some(attr.mtime), ..SetAttr::default() };
                    self.descend(name, dir, times);
                }
                Ok(_) => return Err(through(&shown(&path[..=depth]))),
                Err(Status::NoEnt) => {
                    let (dir, _) = self.fs.mkdir(&self.here, name, 0o755).await.map_err(failed)?;
                    self.progress.entry();
                    self.descend(name, dir, SetAttr::default());
                }
                Err(status) => return Err(failed(status)),
            }
        }
        Ok(())
    }

    fn descend(&mut self, name: &Name, dir: F::Handle, attr: SetAttr) {
        // What is in flight above is waited for on the way back there.
        self.names.clear();
        let kept = (self.levels.len() < OPEN).then(|| dir.clone());
        self.levels.push(Level { name: Some(name.clone()), dir: kept, attr });
        self.here = dir;
    }

    /// Leaves the directory at hand for the one above it: nothing is in flight in it then, and it has its attributes.
    async fn leave(&mut self) -> Result<(), Stop> {
        self.settle().await?;
        let Some(level) = self.levels.pop() else { return Ok(()) };
        let path = level.name.as_ref().map_or(".".to_owned(), Name::to_string);
        if level.attr != SetAttr::default() {
            self.fs.setattr(&self.here, level.attr).await.map_err(|status| Stop::making(&path, status))?;
        }
        self.here = match self.levels.last() {
            Some(Level { dir: Some(above), .. }) => above.clone(),
            Some(_) => self.fs.parent(&self.here).await.map_err(|status| Stop::making(&path, status))?.0,
            None => self.root.clone(),
        };
        Ok(())
    }

    async fn finish(mut self) -> Result<(), Stop> {
        while !self.levels.is_empty() {
            self.leave().await?;
        }
        self.progress.entry();
        Ok(())
    }

    /// Waits for what is in flight.
    async fn settle(&mut self) -> Result<(), Stop> {
        self.names.clear();
        self.permits.acquire_many(self.in_flight).await.map(drop).map_err(|_| Stop::Ended)
    }
}

/// What a directory gets.
fn set_attr(attr: &Attr) -> SetAttr {
    SetAttr {
        size: None,
        mode: Some(attr.mode),
        uid: Some(attr.uid),
        gid: Some(attr.gid),
        atime: Some(attr.atime),
        mtime: Some(attr.mtime),
    }
}

fn through(path: &str) -> Stop {
    Stop::damaged(&format!("leads through `{path}`, which is no directory: nothing outside a volume is touched"))
}

/// A path for a message, shortened from the left.
fn shown(path: &[Name]) -> String {
    const LONG: usize = 512;
    let (mut length, mut from) = (0, path.len());
    while from > 0 && length <= LONG {
        from -= 1;
        length += path[from].as_bytes().len() + 1;
    }
    let parts: Vec<String> = path[from..].iter().map(Name::to_string).collect();
    if from > 0 { format!(".../{}", parts.join("/")) } else { parts.join("/") }
}
