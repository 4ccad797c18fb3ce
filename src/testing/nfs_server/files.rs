//! Operations on open files: their content and their locks.

use super::compound::Request;
use super::names::change;
use super::state::{self, StateId};
use super::{Done, Refused, attributes, lock};
use crate::export::fs::{Fs as _, LockMode, Name, OpenMode, Seek};
use crate::nfs4::codes::{Code, op};
use crate::nfs4::xdr::{Reader, Writer};
use crate::testing::memory::MemoryHandle;

/// FILE_SYNC.
const STABLE: u32 = 2;

impl Request<'_> {
    /// OPEN, CLOSE, LOCK, LOCKU, READ, WRITE and COMMIT.
    pub(super) async fn file(&mut self, operation: u32, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let (fs, at) = (&self.service.fs, self.at()?);
        match operation {
            op::OPEN => self.open(from, to).await?,
            op::CLOSE => {
                let (_seqid, state) = (from.u32()?, StateId::read(from)?);
                let number = self.number(state)?;
                lock(&self.service.sessions).held(self.client()?)?.close(number)?;
                state::write(number, to);
            }
            op::LOCK => self.lock(from, to).await?,
            op::LOCKU => self.unlock(from, to).await?,
            op::READ => {
                let (state, offset, count) = (StateId::read(from)?, from.u64()?, from.u32()? as usize);
                let file = match state {
                    StateId::Anonymous => fs.opened(at, OpenMode::Read),
                    state => self.opened(state)?,
                };
                // One byte more shows whether this is the end.
                let mut data = fs.read(&file, offset, count + 1).await?;
                let end = data.len() <= count;
                data.truncate(count);
                to.bool(end).opaque(&data);
            }
            op::WRITE => {
                let (state, offset, stable) = (StateId::read(from)?, from.u64()?, from.u32()?);
                let (file, data) = (self.opened(state)?, from.opaque(usize::MAX)?);
                fs.write(&file, offset, data.to_vec()).await?;
                if stable == STABLE {
                    fs.commit(&file).await?;
                }
                to.u32(data.len() as u32).u32(stable).fixed(&self.service.verifier());
            }
            _ => {
                let (_offset, _count) = (from.u64()?, from.u32()?);
                fs.commit(&fs.opened(at, OpenMode::Read)).await?;
                to.fixed(&self.service.verifier());
            }
        }
        Ok(())
    }

    /// SEEK, CLONE and COPY.
    pub(super) async fn content(&mut self, operation: u32, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let fs = &self.service.fs;
        match operation {
            op::SEEK => {
                let (file, offset) = (self.opened(StateId::read(from)?)?, from.u64()?);
                let what = if from.u32()? == 0 { Seek::Data } else { Seek::Hole };
                let found = fs.seek(&file, offset, what).await?;
                to.bool(false).u64(found.ok_or(Refused(Code::NXIO))?);
            }
            op::CLONE => {
                let file = |state, at, mode| match state {
                    StateId::Anonymous => Ok(fs.opened(at, mode)),
                    state => self.opened(state),
                };
                let source = file(StateId::read(from)?, self.saved()?, OpenMode::Read)?;
                let target = file(StateId::read(from)?, self.at()?, OpenMode::ReadWrite)?;
                let (offset, to_offset, length) = (from.u64()?, from.u64()?, from.u64()?);
                let whole = length == 0 || length == fs.getattr(&source).await?.size;
                if (offset, to_offset, whole) != (0, 0, true) {
                    return Err(Refused(Code::INVAL));
                }
                fs.clone_file(&source, &target).await?;
            }
            _ => {
                let (source, target) = (self.opened(StateId::read(from)?)?, self.opened(StateId::read(from)?)?);
                let (offset, to_offset, length) = (from.u64()?, from.u64()?, from.u64()?);
                let (_consecutive, _synchronous, servers) = (from.bool()?, from.bool()?, from.u32()?);
                if offset != to_offset || servers != 0 {
                    return Err(Refused(Code::NOTSUPP));
                }
                let count = fs.copy(&source, &target, offset, length).await?;
                // There is nothing to call back for.
                to.u32(0).u64(count).u32(0).fixed(&self.service.verifier()).bool(true).bool(true);
            }
        }
        Ok(())
    }

    async fn open(&mut self, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let (fs, dir) = (&self.service.fs, self.service.fs.object(self.at()?));
        let (_seqid, access, _deny) = (from.u32()?, from.u32()?, from.u32()?);
        let (_client, _owner) = (from.u64()?, from.opaque(1024)?);
        let (creates, mut guarded, mut mode, mut set) = (from.u32()? == 1, false, 0, Vec::new());
        if creates {
            guarded = from.u32()? == 1;
            let (values, attributes) = attributes::read(from)?;
            (mode, set) = (values.mode.unwrap_or(0), attributes);
        }
        let (_by_name, name) = (from.u32()?, Name::new(from.opaque(1024)?)?);
        let access = if access & 2 == 0 { OpenMode::Read } else { OpenMode::ReadWrite };
        let (file, attr) = match (creates, guarded) {
            (false, _) => fs.open(&dir, &name, access).await?,
            (true, false) => fs.open_or_create(&dir, &name, mode).await?,
            (true, true) => fs.create(&dir, &name, mode).await?,
        };
        let number = {
            let mut sessions = lock(&self.service.sessions);
            let number = sessions.number();
            sessions.held(self.client()?)?.open(number, file);
            number
        };
        (self.current, self.state) = (Some(attr.fileid), Some(number));
        state::write(number, to);
        // No flags, and no delegation: none was wanted.
        change(to).u32(0).list(&set).u32(3).u32(0);
        Ok(())
    }

    async fn lock(&self, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let mode = if from.u32()? == 1 { LockMode::Shared } else { LockMode::Exclusive };
        let (_reclaim, byte, length, is_new) = (from.bool()?, from.u64()?, from.u64()?, from.bool()?);
        if length != 1 || !is_new {
            return Err(Refused(Code::NOTSUPP));
        }
        let (_seqid, open, _lock_seqid) = (from.u32()?, self.number(StateId::read(from)?)?, from.u32()?);
        let (_client, owner) = (from.u64()?, from.opaque(1024)?);
        let (fs, client) = (&self.service.fs, self.client()?);
        let (number, file) = {
            let mut sessions = lock(&self.service.sessions);
            let new = (sessions.number(), fs.opened(self.at()?, OpenMode::ReadWrite));
            let held = sessions.held(client)?;
            let number = held.owner(open, owner, new.0, new.1)?;
            (number, held.locks(number)?)
        };
        if !fs.try_lock(&file, byte, mode).await? {
            return Err(Refused(Code::DENIED));
        }
        lock(&self.service.sessions).held(client)?.locked(number, byte);
        state::write(number, to);
        Ok(())
    }

    async fn unlock(&self, from: &mut Reader<'_>, to: &mut Writer) -> Done<()> {
        let (_mode, _seqid, number) = (from.u32()?, from.u32()?, self.number(StateId::read(from)?)?);
        let (byte, length) = (from.u64()?, from.u64()?);
        if length != 1 {
            return Err(Refused(Code::NOTSUPP));
        }
        let client = self.client()?;
        let file = lock(&self.service.sessions).held(client)?.locks(number)?;
        self.service.fs.unlock(&file, byte).await?;
        lock(&self.service.sessions).held(client)?.unlocked(number, byte);
        state::write(number, to);
        Ok(())
    }

    /// The number that a state ID has or stands for.
    fn number(&self, state: StateId) -> Done<u64> {
        match state {
            StateId::Number(number) => Some(number),
            StateId::Current => self.state,
            StateId::Anonymous => None,
        }
        .ok_or(Refused(Code::BAD_STATEID))
    }

    /// The file that a state ID stands for.
    pub(super) fn opened(&self, state: StateId) -> Done<MemoryHandle> {
        let number = self.number(state)?;
        lock(&self.service.sessions).held(self.client()?)?.opened(number)
    }
}
