//! Creates the members of an archive below a directory that nobody else uses.
//!
//! For every member, the driver walks from that directory on handles, one name at a time, and goes only through
//! directories. So a symbolic link from the archive leads nowhere. A directory gets its attributes when the walk leaves
//! it. Small files are held in memory and created several at a time, as many as a copy of a tree has in flight.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Stop;
use crate::export::copy::difference;
use crate::export::fs::{Attr, Fs, FsResult, Kind, Name, SetAttr, Status};
use crate::export::progress::Progress;
use crate::snapshot::archive::members::{Content, Member, Members, What};

/// Files up to this size, in bytes, are held in memory.
const SMALL: u64 = 256 << 10;
/// The bytes of one write to a larger file.
const CHUNK: usize = 1 << 20;
/// The bytes of a larger file between two commits.
const PART: u64 = 32 << 20;
/// How many levels of directories are kept open. Below that, the driver looks up the parent on the way back.
const OPEN: usize = 64;
/// The most names of one directory that are created before the driver waits for all of them.
const NAMES: usize = 4096;

/// A file to create, whose content is in memory.
struct Job<F: Fs> {
    dir: F::Handle,
    path: String,
    name: Name,
    attr: Attr,
    content: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

/// A directory on the path from the root to the current directory.
struct Level<F: Fs> {
    name: Option<Name>,
    /// The open directory, down to [`OPEN`] levels.
    dir: Option<F::Handle>,
    /// The attributes that the directory gets when the walk leaves it.
    attr: SetAttr,
}

struct Unpacker<'a, F: Fs> {
    fs: &'a F,
    progress: &'a Progress,
    /// The path to the current directory. The first level is the root.
    levels: Vec<Level<F>>,
    here: F::Handle,
    root: F::Handle,
    jobs: mpsc::Sender<Job<F>>,
    permits: Arc<Semaphore>,
    in_flight: u32,
    /// The names in the current directory that may be in flight.
    names: HashSet<Name>,
    /// How many more bytes may be written.
    room: u64,
}

/// Creates all members below `to`, which is empty. The files may have `limit` bytes in total. At most `in_flight` files
/// are created at the same time.
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

/// Creates a file. Returns the number of its bytes.
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

/// Creates a file, and replaces an object that has its name.
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
    /// Creates a member.
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

    /// Creates an object that is not a regular file, and replaces an object that has its name. Fails if that is a
    /// directory.
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
        // Sending fails if the writing half has ended. Its error is the one to report.
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

    /// Creates a hard link to the object of an earlier member.
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

    /// Makes the directory at that path the current one. Creates missing directories.
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
                    // The directory has its attributes already. New entries change its times, so set these again later.
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
        // `leave` waits for everything in flight, so the names of the directory above need no memory.
        self.names.clear();
        let kept = (self.levels.len() < OPEN).then(|| dir.clone());
        self.levels.push(Level { name: Some(name.clone()), dir: kept, attr });
        self.here = dir;
    }

    /// Waits for everything in flight, sets the current directory's attributes, and returns to the directory above.
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

    /// Waits until no file is in flight.
    async fn settle(&mut self) -> Result<(), Stop> {
        self.names.clear();
        self.permits.acquire_many(self.in_flight).await.map(drop).map_err(|_| Stop::Ended)
    }
}

/// The attributes to set on a directory.
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
    Stop::damaged(&format!(
        "leads through `{path}`, which is not a directory: the driver touches nothing outside a volume"
    ))
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
