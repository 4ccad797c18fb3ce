//! The driver's private directory on an export.
//!
//! ```text
//! SHARE/.csi-nfs/            mode 0700
//!     lock                   each running operation locks a byte of this file: see locks.rs
//!     volumes/               records of volumes: NAME.json
//!     paths/                 owners of directories, if the class has `subDir`: see volume/claims.rs
//!     snapshots/             records of snapshots, NAME.json, and their trees, NAME.tree
//!     promised/              the sum of promised capacities, if a class has `overcommit`: see volume/overcommit.rs
//!     quota/                 reports of the quota agent: see volume/quota.rs
//!     staging/               objects that are being made, named after their locks
//!     trash/                 objects that are being deleted
//! ```

use crate::export::fs::{Fs, FsResult, Kind, Name, OpenMode, Status};
use crate::nfs::source::SubDir;

/// Handles of the directories in the private directory.
pub struct Layout<F: Fs> {
    /// The private directory itself.
    pub private: F::Handle,
    /// Records of volumes.
    pub volumes: F::Handle,
    /// Which volumes own which directories.
    pub paths: F::Handle,
    /// Records of snapshots, and their trees.
    pub snapshots: F::Handle,
    /// What is being made.
    pub staging: F::Handle,
    /// What is being deleted.
    pub trash: F::Handle,
    /// The file whose bytes are locked.
    pub lock: F::Handle,
}

impl<F: Fs> Layout<F> {
    /// Opens the private directory. Returns `None` if it or a part of it is missing: another process may be creating
    /// it.
    pub async fn open(fs: &F) -> FsResult<Option<Self>> {
        match Self::walk(fs, false).await {
            Ok(layout) => Ok(Some(layout)),
            Err(Status::NoEnt) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Opens the private directory, and creates what is missing.
    pub async fn make(fs: &F) -> FsResult<Self> {
        Self::walk(fs, true).await
    }

    async fn walk(fs: &F, make: bool) -> FsResult<Self> {
        let private = directory(fs, &fs.root(), SubDir::PRIVATE, make).await?;
        let part = async |name: &str| directory(fs, &private, name, make).await;
        let (volumes, paths) = (part("volumes").await?, part("paths").await?);
        let (staging, trash) = (part("staging").await?, part("trash").await?);
        let snapshots = part("snapshots").await?;
        let lock = lock_file(fs, &private, make).await?;
        Ok(Self { private, volumes, paths, snapshots, staging, trash, lock })
    }
}

/// Opens the file `lock` in `dir`, whose bytes are locked. With `make`, creates it if it is missing.
pub async fn lock_file<F: Fs>(fs: &F, dir: &F::Handle, make: bool) -> FsResult<F::Handle> {
    let name = Name::new("lock")?;
    let (lock, _) = match fs.open(dir, &name, OpenMode::ReadWrite).await {
        Err(Status::NoEnt) if make => match fs.create(dir, &name, 0o600).await {
            Err(Status::Exist) => fs.open(dir, &name, OpenMode::ReadWrite).await?,
            created => created?,
        },
        opened => opened?,
    };
    Ok(lock)
}

async fn directory<F: Fs>(fs: &F, parent: &F::Handle, name: &str, make: bool) -> FsResult<F::Handle> {
    let name = Name::new(name)?;
    let found = match fs.lookup(parent, &name).await {
        Err(Status::NoEnt) if make => match fs.mkdir(parent, &name, 0o700).await {
            Err(Status::Exist) => fs.lookup(parent, &name).await?,
            made => made?,
        },
        found => found?,
    };
    match found {
        (dir, attr) if attr.kind == Kind::Directory => Ok(dir),
        _ => Err(Status::NotDir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory::{MemoryServer, Node};

    #[tokio::test]
    async fn opening_makes_nothing_also_where_somebody_is_about_to_make_it() {
        let server = MemoryServer::new();
        server.plant(".csi-nfs/volumes", Node::directory(0o700)).unwrap();
        let before = server.tree();
        assert!(Layout::open(&server.client()).await.unwrap().is_none());
        assert_eq!(server.tree(), before);
    }
}
