//! The operations on the export ([`Fs`]): each is one request.

use crate::export::features::{Feature, Features};
use crate::export::fs::{
    Attr, Cookie, Entry, Fs, FsResult, FsStat, Kind, LockMode, Name, OpenMode, Page, SYMLINK_MAX, Seek, SetAttr,
    Status, Step, check_new_mode, check_special, check_symlink_target,
};
use crate::export::user::handle::UserHandle;
use crate::export::user::{UserFs, at, content, copies, in_parts, is_at, locks, many, other_project, steps, xattrs};
use crate::nfs4::attributes::attribute::{
    FILEID, FILES_AVAIL, FILES_FREE, FILES_TOTAL, NUMLINKS, RDATTR_ERROR, SPACE_AVAIL, SPACE_FREE, SPACE_TOTAL, TYPE,
};
use crate::nfs4::attributes::{Attributes, OBJECT, Values};
use crate::nfs4::codes::Code;
use crate::nfs4::compound::{Compound, How, New};
use crate::nfs4::results::{Failure, Listing, Results};
use crate::nfs4::state::StateId;

/// The most bytes of entries in an answer to READDIR.
const LISTING: u32 = 64 << 10;

impl Fs for UserFs {
    type Handle = UserHandle;

    fn root(&self) -> UserHandle {
        self.0.root.clone()
    }

    async fn lookup(&self, dir: &UserHandle, name: &Name) -> FsResult<(UserHandle, Attr)> {
        let compound = at(dir.directory()?).lookup(name.as_bytes()).handle().attributes(&OBJECT);
        self.ask(compound, |results| {
            is_at(results)?;
            results.lookup()?;
            self.found(results.handle()?, &results.attributes()?)
        })
        .await
    }

    async fn parent(&self, dir: &UserHandle) -> FsResult<(UserHandle, Attr)> {
        if *dir.directory()? == self.0.root.0.at {
            return Ok((self.root(), self.getattr(&self.root()).await?));
        }
        let compound = at(dir.directory()?).parent().handle().attributes(&OBJECT);
        self.ask(compound, |results| {
            is_at(results)?;
            results.parent()?;
            self.found(results.handle()?, &results.attributes()?)
        })
        .await
    }

    async fn getattr(&self, object: &UserHandle) -> FsResult<Attr> {
        self.ask(Compound::default().put(&object.0.at).attributes(&OBJECT), |results| {
            results.put()?;
            self.attr(&results.attributes()?)
        })
        .await
    }

    async fn setattr(&self, object: &UserHandle, attr: SetAttr) -> FsResult<()> {
        attr.check()?;
        if attr.size.is_some_and(|size| i64::try_from(size).is_err()) {
            return Err(Status::FBig);
        }
        let state = if attr.size.is_some() { object.opened(true)?.state } else { StateId::ANONYMOUS };
        let (mut parts, is_link) = (in_parts(attr), object.0.kind == Kind::Symlink);
        let refused = parts.iter().position(|part| part.mode.is_some() && is_link);
        parts.truncate(refused.unwrap_or(parts.len()));
        let put = Compound::default().put(&object.0.at).attributes(&[NUMLINKS]);
        let compound = parts.iter().fold(put, |all, part| all.set(state, &Values::of(part)));
        self.ask(compound, |results| {
            is_at(results)?;
            parts.iter().try_for_each(|_| results.set())?;
            if refused.is_some() { Err(Status::NotSupp) } else { Ok(()) }
        })
        .await
    }

    async fn mkdir(&self, dir: &UserHandle, name: &Name, mode: u32) -> FsResult<(UserHandle, Attr)> {
        check_new_mode(mode)?;
        self.make(dir, name, New::Plain(Kind::Directory), &Values::mode(mode)).await
    }

    async fn create(&self, dir: &UserHandle, name: &Name, mode: u32) -> FsResult<(UserHandle, Attr)> {
        check_new_mode(mode)?;
        // The session makes it exactly once, so EXCLUSIVE4 is not needed.
        match self.opened(dir, name, OpenMode::ReadWrite, How::Guarded(&Values::mode(mode))).await {
            Err(Status::IsDir | Status::Symlink | Status::WrongType) => Err(Status::Exist),
            created => created,
        }
    }

    async fn open_or_create(&self, dir: &UserHandle, name: &Name, mode: u32) -> FsResult<(UserHandle, Attr)> {
        check_new_mode(mode)?;
        self.open_regular(dir, name, OpenMode::ReadWrite, How::Unchecked(&Values::mode(mode))).await
    }

    async fn symlink(&self, dir: &UserHandle, name: &Name, target: &[u8]) -> FsResult<(UserHandle, Attr)> {
        check_symlink_target(target)?;
        self.make(dir, name, New::Symlink(target), &Values::default()).await
    }

    async fn mknod(
        &self,
        dir: &UserHandle,
        name: &Name,
        kind: Kind,
        mode: u32,
        device: (u32, u32),
    ) -> FsResult<(UserHandle, Attr)> {
        check_special(kind)?;
        check_new_mode(mode)?;
        let what = match kind {
            Kind::CharDevice | Kind::BlockDevice => New::Device(kind, device),
            _ => New::Plain(kind),
        };
        self.make(dir, name, what, &Values::mode(mode)).await
    }

    async fn link(&self, object: &UserHandle, dir: &UserHandle, name: &Name) -> FsResult<()> {
        if object.0.kind == Kind::Directory {
            return Err(Status::IsDir);
        }
        let object = at(&object.0.at).save();
        let compound = object.put(dir.directory()?).attributes(&[NUMLINKS]).link(name);
        let linked = self.ask(compound, |results| {
            is_at(results)?;
            results.save()?;
            is_at(results)?;
            Ok(results.link()?)
        });
        linked.await.map_err(other_project)
    }

    async fn readlink(&self, link: &UserHandle) -> FsResult<Vec<u8>> {
        if link.0.kind != Kind::Symlink {
            return Err(Status::Inval);
        }
        self.ask(Compound::default().put(&link.0.at).readlink(), |results| {
            results.put()?;
            Ok(results.readlink(SYMLINK_MAX)?.to_vec())
        })
        .await
    }

    async fn open(&self, dir: &UserHandle, name: &Name, mode: OpenMode) -> FsResult<(UserHandle, Attr)> {
        self.open_regular(dir, name, mode, How::NoCreate).await
    }

    async fn read(&self, file: &UserHandle, offset: u64, length: usize) -> FsResult<Vec<u8>> {
        content::read(self, file, offset, length).await
    }

    async fn write(&self, file: &UserHandle, offset: u64, data: Vec<u8>) -> FsResult<()> {
        content::write(self, file, offset, &data).await
    }

    async fn commit(&self, file: &UserHandle) -> FsResult<()> {
        let open = file.opened(false)?;
        let compound = Compound::default().put(&file.0.at).commit();
        let verifier = self.ask(compound, |results| {
            results.put()?;
            Ok(results.commit()?)
        });
        open.committed(verifier.await?)
    }

    async fn seek(&self, file: &UserHandle, offset: u64, what: Seek) -> FsResult<Option<u64>> {
        content::seek(self, file, offset, what).await
    }

    async fn clone_file(&self, source: &UserHandle, target: &UserHandle) -> FsResult<u64> {
        self.0.features.noted(Feature::Clone, copies::clone_file(self, source, target).await)
    }

    async fn copy(&self, source: &UserHandle, target: &UserHandle, offset: u64, length: u64) -> FsResult<u64> {
        copies::copy(self, source, target, offset, length).await
    }

    async fn clone_entries(&self, from: &UserHandle, to: &UserHandle, names: &[Name]) -> Vec<FsResult<Option<Attr>>> {
        copies::clone_entries(self, from, to, names).await
    }

    async fn list_xattrs(&self, object: &UserHandle) -> FsResult<Vec<Vec<u8>>> {
        xattrs::list(self, object).await
    }

    async fn get_xattr(&self, object: &UserHandle, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
        xattrs::get(self, object, name).await
    }

    async fn set_xattr(&self, object: &UserHandle, name: &[u8], value: &[u8]) -> FsResult<()> {
        xattrs::set(self, object, name, value).await
    }

    async fn read_file(&self, dir: &UserHandle, name: &Name, limit: usize) -> FsResult<Vec<u8>> {
        content::read_file(self, dir, name, limit).await
    }

    async fn read_file_if_lacking(
        &self,
        file: (&UserHandle, &Name, usize),
        lacking: (&UserHandle, &[Name]),
    ) -> FsResult<Option<FsResult<Vec<u8>>>> {
        content::read_file_if_lacking(self, file, lacking).await
    }

    async fn write_file(&self, dir: &UserHandle, name: &Name, mode: u32, content: Vec<u8>) -> FsResult<()> {
        check_new_mode(mode)?;
        content::write_file(self, dir, name, mode, &content).await
    }

    async fn in_order(&self, steps: &[Step<UserHandle>]) -> (usize, FsResult<()>) {
        steps::in_order(self, steps).await
    }

    async fn rename(&self, from_dir: &UserHandle, from: &Name, to_dir: &UserHandle, to: &Name) -> FsResult<()> {
        steps::rename(self, &(from_dir.clone(), from.clone()), &(to_dir.clone(), to.clone())).await
    }

    async fn unlink(&self, dir: &UserHandle, name: &Name) -> FsResult<()> {
        let is_none = |results: &mut Results<'_>| match results.nverify() {
            Err(Failure::Code(Code::SAME)) => Err(Status::IsDir),
            checked => Ok(checked?),
        };
        self.remove(dir, name, |compound| compound.nverify(Kind::Directory), is_none).await
    }

    async fn rmdir(&self, dir: &UserHandle, name: &Name) -> FsResult<()> {
        let is_one = |results: &mut Results<'_>| match results.verify() {
            Err(Failure::Code(Code::NOT_SAME)) => Err(Status::NotDir),
            checked => Ok(checked?),
        };
        self.remove(dir, name, |compound| compound.verify(Kind::Directory), is_one).await
    }

    async fn remove(&self, dir: &UserHandle, names: &[Name]) -> (usize, FsResult<()>) {
        many::remove(self, dir, names).await
    }

    async fn readdir(&self, dir: &UserHandle, from: Cookie) -> FsResult<Page> {
        let most = LISTING.min(self.0.read);
        // Servers that need a verifier of cookies return the same one each time for a directory that was not replaced.
        let compound = at(dir.directory()?).readdir(from, [0; 8], most, &[TYPE, FILEID, RDATTR_ERROR]);
        self.ask(compound, |results| {
            is_at(results)?;
            let listed = results.readdir()?;
            let next = listed.entries.last().map(|entry| entry.cookie);
            if !listed.last && next.is_none_or(|next| next == from) {
                // The listing would never end.
                return Err(Status::Io);
            }
            let entry = |Listing { cookie, name, attributes }: Listing<'_>| {
                let name = Name::new(name).map_err(|_| Status::Io)?;
                Ok(Entry { name, kind: attributes.kind, fileid: attributes.fileid.unwrap_or(0), cookie })
            };
            let entries = listed.entries.into_iter().map(entry).collect::<FsResult<_>>()?;
            Ok(Page { entries, next: next.filter(|_| !listed.last) })
        })
        .await
    }

    async fn statfs(&self, dir: &UserHandle) -> FsResult<FsStat> {
        let figures = [SPACE_TOTAL, SPACE_FREE, SPACE_AVAIL, FILES_TOTAL, FILES_FREE, FILES_AVAIL];
        let compound = Compound::default().put(dir.directory()?).attributes(&figures);
        self.ask(compound, |results| {
            results.put()?;
            let Attributes { space: [available, free, total], files: [_, free_inodes, inodes], .. } =
                results.attributes()?;
            Ok(FsStat {
                total_bytes: total.ok_or(Status::Io)?,
                free_bytes: free.ok_or(Status::Io)?,
                available_bytes: available.ok_or(Status::Io)?,
                // Some servers have no limit on inodes, and do not say so.
                total_inodes: inodes.unwrap_or(0),
                free_inodes: free_inodes.unwrap_or(0),
            })
        })
        .await
    }

    async fn try_lock(&self, file: &UserHandle, key: u64, mode: LockMode) -> FsResult<bool> {
        locks::try_lock(self, file, key, mode).await
    }

    async fn unlock(&self, file: &UserHandle, key: u64) -> FsResult<()> {
        locks::unlock(self, file, key).await
    }

    fn locks_are_shared(&self) -> bool {
        true
    }

    fn version(&self) -> Option<&str> {
        Some(&self.0.version)
    }

    fn features(&self) -> Features {
        self.0.features.clone()
    }

    fn client(&self) -> &'static str {
        "own"
    }

    fn connection(&self) -> Option<String> {
        let (client, has) = (&self.0.client, |has| if has { "" } else { "no " });
        Some(format!(
            "NFS {} by the driver's own client: a lease of {} s, {} requests at a time, {}extended attributes, {}access \
             control lists",
            self.0.version,
            client.lease().as_secs(),
            client.limits().slots,
            has(self.0.xattrs),
            has(self.0.acls),
        ))
    }
}
