//! What a server answers to the driver's own NFS client.

use crate::nfs::name::Name;
use crate::nfs4::results::{Outcome, Results};
use crate::nfs4::rpc;

/// The most operations of a request.
const OPERATIONS: usize = 16;
/// The most bytes that are asked for.
const MOST: usize = 4096;

/// The answer to a request of the operations that the first bytes choose. Whatever it says, no more comes out than was
/// asked for, and an object's attributes are those of an object.
pub fn nfs4_answer(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else { return };
    let Some((operations, reply)) = rest.split_at_checked(usize::from(*count) % OPERATIONS) else { return };
    let Ok(answer) = rpc::results(reply) else { return };
    let Ok((mut results, _)) = Results::read(answer) else { return };
    for operation in operations {
        if next(&mut results, *operation).is_err() {
            return;
        }
    }
}

fn next(results: &mut Results<'_>, operation: u8) -> Outcome<()> {
    match operation % 22 {
        0 => results.put(),
        1 => results.lookup(),
        2 => results.handle().map(|handle| assert!(handle.as_bytes().len() <= 128)),
        3 => results.attributes().map(|attributes| {
            if let Ok(object) = attributes.object() {
                assert!(object.mode <= 0o7777 && object.mtime.nanoseconds < 1_000_000_000);
            }
        }),
        4 => results.set(),
        5 => results.create(),
        6 => results.open().map(drop),
        7 => results.close(),
        8 => results.data(MOST).map(|(data, _)| assert!(data.len() <= MOST)),
        9 => results.write().map(drop),
        10 => results.commit().map(drop),
        11 => results.seek().map(drop),
        12 => results.copy().map(drop),
        13 => results.readlink(MOST).map(|target| assert!(target.len() <= MOST)),
        14 => results.readdir().map(|listed| assert!(listed.entries.iter().all(|entry| entry.name.len() <= Name::MAX))),
        15 => results.rename(),
        16 => results.lock().map(drop),
        17 => results.get_xattr(MOST).map(|value| assert!(value.len() <= MOST)),
        18 => results.list_xattrs().map(|(_, names, _)| assert!(names.iter().all(|name| name.len() <= Name::MAX))),
        19 => results.exchange_id().map(drop),
        20 => results.create_session().map(drop),
        _ => results.sequence().map(drop),
    }
}
