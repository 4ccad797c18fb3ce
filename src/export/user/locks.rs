//! Byte-range locks. Requests for one byte are sent one after the other, whether or not their callers still wait: an
//! unlock does not overtake the lock that it ends.

use crate::export::fs::{FsResult, LockMode, lock_offset};
use crate::export::user::UserFs;
use crate::export::user::handle::UserHandle;
use crate::nfs4::codes::Code;
use crate::nfs4::compound::Compound;
use crate::nfs4::results::Failure;

/// LOCK, without waiting. Returns whether it was granted.
pub(super) async fn try_lock(fs: &UserFs, file: &UserHandle, key: u64, mode: LockMode) -> FsResult<bool> {
    file.opened(true)?;
    let (file, client, byte) = (file.clone(), fs.0.client.clone(), lock_offset(key).cast_unsigned());
    let lock = async move {
        let open = file.opened(true)?;
        let _turn = open.turns.lock(byte).await;
        let exclusive = mode == LockMode::Exclusive;
        let put = Compound::default().put(&file.0.at);
        let answer = client.settle(put.lock(open.state, client.client_id(), open.owner, byte, exclusive)).await?;
        let mut results = answer.results()?;
        results.put()?;
        match results.lock() {
            Err(Failure::Code(Code::DENIED | Code::LOCKED)) => Ok(false),
            granted => {
                open.locked(granted?, byte);
                Ok(true)
            }
        }
    };
    fs.0.client.patiently(lock).await
}

/// LOCKU.
pub(super) async fn unlock(fs: &UserFs, file: &UserHandle, key: u64) -> FsResult<()> {
    file.opened(true)?;
    let (file, client, byte) = (file.clone(), fs.0.client.clone(), lock_offset(key).cast_unsigned());
    let unlock = async move {
        let open = file.opened(true)?;
        let _turn = open.turns.lock(byte).await;
        let Some(state) = open.locks() else { return Ok(()) };
        let answer = client.settle(Compound::default().put(&file.0.at).unlock(state, byte)).await?;
        let mut results = answer.results()?;
        results.put()?;
        results.unlock()?;
        open.unlocked(byte);
        Ok(())
    };
    fs.0.client.patiently(unlock).await
}
