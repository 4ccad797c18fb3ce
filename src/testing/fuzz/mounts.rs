//! What the kernel and servers say of mounts: the mount table, and answers to RPC calls.

use futures_util::FutureExt as _;

use super::export;
use crate::mount::compare;
use crate::mount::rpc::{self, Reply};
use crate::mount::table::{Table, is_kubelet_target};
use crate::nfs::options::MountOptions;
use crate::node::mounts::parse_ages;

/// The text of mountinfo and mountstats, which has names that tenants and servers chose.
pub fn mount_table(data: &[u8]) {
    let table = Table::parse(data);
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(table.mounts().count() <= lines);
    assert!(parse_ages(data).len() <= lines);
    let options = MountOptions::parse("", ["vers=4.2,sec=krb5p,xprtsec=tls,actimeo=1,ro"]).unwrap();
    for mount in table.mounts() {
        let stack = table.at(&mount.target);
        assert!(stack.iter().all(|other| other.target == mount.target));
        assert_eq!(table.top(&mount.target), stack.first().copied());
        assert!(mount.is_nfs() || mount.server().is_none() && mount.address().is_none());
        assert!(mount.port() != 0 && mount.tcp_port() != 0);
        assert!(!mount.source().contains(char::is_control));
        assert!(mount.is_within(&export(), &[]) || !mount.is_of(&export(), None));
        let _: bool = is_kubelet_target(&mount.target);
        let difference = compare::difference(mount, &options);
        assert!(difference.is_some() || compare::weaker(mount, &options).is_none());
        let _: Option<compare::Difference> = compare::less_secure(mount, &options, true);
    }
}

/// The answer of a server to an RPC call is refused, or it is short.
pub fn rpc(data: &[u8]) {
    // The answer is to whatever call it names, so that the parser looks at the rest.
    let xid = data.get(4..8).and_then(|xid| xid.try_into().ok()).map(u32::from_be_bytes).unwrap_or_default();
    let mut stream = data;
    // All of it is there, so the future is ready.
    if let Ok(Reply::Success(results)) = rpc::reply(&mut stream, xid).now_or_never().unwrap() {
        assert!(results.len() <= rpc::REPLY_MAX);
        for is_ipv4 in [true, false] {
            assert_ne!(rpc::port(&results, is_ipv4).ok().flatten(), Some(0));
        }
    }
}
