//! Refuses a mount where options that protect data are not in force.
//!
//! The kernel lets mounts of one server share a connection and a superblock. A later mount then gets the options of the
//! first one, without an error. So the options of each new mount are read before anything uses it.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::mount::compare::{Difference, weaker};
use crate::mount::fsmount::{Attempt, Failure};
use crate::mount::inspect::Inspector;
use crate::mount::table::{Mount, Table};
use crate::nfs::options::MountOptions;

/// Other mounts that a message names.
const NAMED: usize = 3;

/// Checks which options are in force on new mounts.
#[derive(Debug, Default)]
pub struct InForce {
    inspector: Inspector,
    warned: AtomicBool,
}

impl InForce {
    /// Lets a mount of `source` pass where nothing is weaker than `options` ask. Gives a new descriptor of its root,
    /// and the server's address that the kernel uses for it, where that can be read. It may be another address than was
    /// asked for: where the kernel finds that a server has both addresses (trunking, RFC 8881 section 2.10.5), it uses
    /// the connection that it has already.
    ///
    /// # Errors
    /// [`Error::Precondition`] where an option is weaker, or where it has to be known and cannot be read. The mount is
    /// gone then.
    pub fn check(
        &self,
        root: OwnedFd,
        source: &str,
        options: &MountOptions,
    ) -> Result<(OwnedFd, Option<IpAddr>), Attempt> {
        let inspection = match self.inspector.start() {
            Ok(inspection) => inspection,
            Err(failure) if options.must_be_in_force() => return Err(Attempt::Other(untold(source, &failure))),
            Err(failure) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%failure, "cannot tell what mounts are mounted with; what needs it is refused");
                }
                return Ok((root, None));
            }
        };
        let inspected = inspection.ask(root).map_err(|failure| Attempt::Other(untold(source, &failure)))?;
        match weaker(&inspected.mount, options) {
            None => Ok((inspected.root, inspected.mount.address())),
            Some(difference) => {
                Err(Attempt::Other(refused(source, &inspected.mount, &difference.without_secret(options))))
            }
        }
    }
}

fn untold(source: &str, failure: &Failure) -> Error {
    Error::Precondition(format!(
        "mounting {source}: the driver cannot tell whether what was asked for is in force: {failure}; it needs \
         CAP_SYS_ADMIN, and seccomp and AppArmor profiles that let it mount"
    ))
}

fn refused(source: &str, mount: &Mount, difference: &Difference) -> Error {
    // Only for the message, which says less without the table.
    let table = Table::read().unwrap_or_default();
    let others: Vec<&Mount> = table.mounts().filter(|other| may_share(mount, other)).collect();
    let named = others.iter().take(NAMED).map(|other| other.target.to_string_lossy().escape_debug().to_string());
    let named = named.collect::<Vec<_>>().join(", ");
    let which = match others.len() {
        0 => "it is not visible from here, such as one of the driver's own".to_owned(),
        1..=NAMED => named,
        many => format!("{named} and {} more", many - NAMED),
    };
    let version = mount.option("vers").unwrap_or_default();
    Error::Precondition(format!(
        "mounting {source}: {difference}. Another mount of this server with version {version} was there first, and \
         this one shares its connection: {which}. Mount everything of this server with the same `sec=`, `xprtsec=` \
         and locks, and unmount what has others; or ask for another `vers=`, which gets a connection of its own"
    ))
}

/// Whether two mounts may share a connection: they are of one server and version.
fn may_share(mount: &Mount, other: &Mount) -> bool {
    other.is_nfs()
        && ["addr", "vers"].iter().all(|option| mount.option(option) == other.option(option))
        && mount.port() == other.port()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_refusal_says_what_is_in_force_what_was_asked_for_and_what_to_do() {
        let line = b"26 25 0:26 / /mount rw - nfs4 nfs:/e rw,vers=4.2,hard,sec=sys,addr=192.0.2.1";
        let table = Table::parse(line);
        let mount = table.top(Path::new("/mount")).unwrap();
        let options = MountOptions::parse("mountOptions", ["xprtsec=mtls"]).unwrap();
        let difference = weaker(mount, &options).unwrap();
        let error = refused("nfs:/e", mount, &difference).to_string();
        for said in ["nfs:/e", "`xprtsec=mtls` is asked for", "`xprtsec=none`", "version 4.2", "another `vers=`"] {
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn mounts_of_one_address_port_and_version_may_share_a_connection() {
        let table = Table::parse(
            b"26 25 0:26 / /a rw - nfs4 nfs:/e rw,vers=4.2,addr=192.0.2.1\n\
              27 25 0:26 / /b rw - nfs4 other:/f rw,vers=4.2,port=2049,addr=192.0.2.1\n\
              28 25 0:26 / /c rw - nfs4 nfs:/e rw,vers=4.1,addr=192.0.2.1\n\
              29 25 0:26 / /d rw - nfs4 nfs:/e rw,vers=4.2,addr=192.0.2.2\n\
              30 25 0:26 / /e rw - nfs4 nfs:/e rw,vers=4.2,port=3049,addr=192.0.2.1\n",
        );
        let mount = table.top(Path::new("/a")).unwrap();
        let sharing: Vec<_> = table.mounts().filter(|other| may_share(mount, other)).map(|m| m.id).collect();
        assert_eq!(sharing, [26, 27]);
    }
}
