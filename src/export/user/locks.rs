//! Byte-range locks. Requests for one byte are sent one after the other, whether or not their callers still wait: an
//! unlock does not overtake the lock that it ends.

use crate::export::fs::{FsResult, LockMode, lock_offset};
use crate::export::user::UserFs;
use crate::export::user::handle::UserHandle;
use crate::nfs4::client::Client;
use crate::nfs4::codes::Code;
use crate::nfs4::compound::Compound;
use crate::nfs4::results::Failure;
use crate::nfs4::session::Caller;

/// LOCK, without waiting. Returns whether it was granted.
pub(super) async fn try_lock(fs: &UserFs, file: &UserHandle, key: u64, mode: LockMode) -> FsResult<bool> {
    file.opened(true)?;
    let (file, byte) = (file.clone(), lock_offset(key).cast_unsigned());
    let lock = async move |client: Client, caller: Caller| {
        let open = file.opened(true)?;
        let _turn = open.turns.lock(byte).await;
        let exclusive = mode == LockMode::Exclusive;
        let put = Compound::default().put(&file.0.at);
        let lock = put.lock(open.state, client.client_id(), open.owner, byte, exclusive);
        let answer = client.settle(&lock, &caller).await?;
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
    fs.0.patience.spend(&fs.0.client, lock).await
}

/// LOCKU.
pub(super) async fn unlock(fs: &UserFs, file: &UserHandle, key: u64) -> FsResult<()> {
    file.opened(true)?;
    let (file, byte) = (file.clone(), lock_offset(key).cast_unsigned());
    let unlock = async move |client: Client, caller: Caller| {
        let open = file.opened(true)?;
        let _turn = open.turns.lock(byte).await;
        let Some(state) = open.locks() else { return Ok(()) };
        let answer = client.settle(&Compound::default().put(&file.0.at).unlock(state, byte), &caller).await?;
        let mut results = answer.results()?;
        results.put()?;
        results.unlock()?;
        open.unlocked(byte);
        Ok(())
    };
    fs.0.patience.spend(&fs.0.client, unlock).await
}
