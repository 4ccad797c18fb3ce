//! Directories whose mode keeps out their own owner, such as those of a Go module cache (0555).
//!
//! Modes do not bind root. If the server squashes root, the driver is the owner of what it created, and modes bind it:
//! the owner may not remove what is in such a directory, nor move the directory (rename(2), EACCES). But the owner may
//! change the mode.

use crate::export::fs::{Fs, FsResult, Kind, Name, SetAttr, Status};

/// The owner's permissions.
const OWNER: u32 = 0o700;

/// Renames an entry. If it is a directory that its owner may not write to, its mode lets the owner in meanwhile.
///
/// # Errors
/// Those of [`Fs::rename`].
pub async fn rename<F: Fs>(
    fs: &F,
    (from_dir, from): (&F::Handle, &Name),
    (to_dir, to): (&F::Handle, &Name),
) -> FsResult<()> {
    let refused = match fs.rename(from_dir, from, to_dir, to).await {
        Err(refused @ (Status::Access | Status::Perm)) => refused,
        renamed => return renamed,
    };
    let Ok((directory, attr)) = fs.lookup(from_dir, from).await else { return Err(refused) };
    if attr.kind != Kind::Directory || !let_owner_in(fs, &directory, attr.mode).await {
        return Err(refused);
    }
    let renamed = fs.rename(from_dir, from, to_dir, to).await;
    let restored = fs.setattr(&directory, SetAttr { mode: Some(attr.mode), ..SetAttr::default() }).await;
    renamed.and(restored)
}

/// Gives the owner of a directory all permissions to it. Returns whether that changed anything.
pub async fn let_owner_in<F: Fs>(fs: &F, directory: &F::Handle, mode: u32) -> bool {
    let open = SetAttr { mode: Some(mode | OWNER), ..SetAttr::default() };
    mode & OWNER != OWNER && fs.setattr(directory, open).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory::{MemoryServer, Node};

    const NOBODY: u32 = 65534;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[tokio::test]
    async fn a_directory_that_its_owner_may_not_write_to_is_moved_and_keeps_its_mode() {
        let server = MemoryServer::new();
        server.plant("to", Node::directory(0o777)).unwrap();
        server.plant("cache", Node::directory(0o555).owned_by(NOBODY, NOBODY)).unwrap();
        server.plant("foreign", Node::directory(0o555)).unwrap();
        let fs = server.client();
        let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        fs.setattr(&fs.root(), open).await.unwrap();
        server.set_root_squash(true);
        let (root, to) = (fs.root(), fs.lookup(&fs.root(), &name("to")).await.unwrap().0);
        assert_eq!(rename(&fs, (&root, &name("foreign")), (&to, &name("moved"))).await, Err(Status::Access));
        rename(&fs, (&root, &name("cache")), (&to, &name("moved"))).await.unwrap();
        let tree = server.tree();
        assert_eq!(tree.get("to/moved"), Some(&Node::directory(0o555).owned_by(NOBODY, NOBODY)));
        assert!(tree.has("foreign") && !tree.has("cache"));
    }
}
