//! Rejects a mount if options that protect data are not in force.
//!
//! The kernel lets mounts of one server share a connection and a superblock. A later mount then gets the options of the
//! first one, without an error. So the driver reads the options of each new mount before it uses the mount.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::mount::compare::{Difference, weaker};
use crate::mount::fsmount::{Attempt, Failure};
use crate::mount::inspect::{Inspected, Inspector};
use crate::mount::new_mount::NewMount;
use crate::mount::table::{Mount, Table};
use crate::nfs::options::MountOptions;

/// The maximum number of other mounts that a message names.
const NAMED: usize = 3;

/// Checks which options are in force on new mounts.
#[derive(Debug, Default)]
pub struct InForce {
    inspector: Inspector,
    warned: AtomicBool,
}

impl InForce {
    /// Checks that nothing in a mount of `source` is weaker than `options` request. Returns the mount,
    /// and what the kernel shows of it, if the driver can read it. The address there may not be the requested
    /// one: if the kernel finds that one server has both addresses (trunking, RFC 8881 section 2.10.5), it uses its
    /// existing connection.
    ///
    /// # Errors [`Error::Precondition`] if an option is weaker, or if the driver cannot read the mount's options. The
    /// mount is then gone. If the driver can read no mount's options at all, the error is only for options that must be
    /// in force; other mounts pass.
    pub fn check(
        &self,
        mount: NewMount,
        source: &str,
        options: &MountOptions,
    ) -> Result<(NewMount, Option<Mount>), Attempt> {
        let inspected = match mount.in_table() {
            Some(shown) => shown.map(|shown| (mount, shown)),
            None => match self.inspector.start() {
                Ok(inspection) => {
                    let inspected = inspection.ask(mount.into_root());
                    inspected.map(|Inspected { root, mount: shown }| (NewMount::detached(root), shown))
                }
                Err(failure) if options.must_be_in_force() => Err(failure),
                Err(failure) => {
                    self.warn(&failure);
                    return Ok((mount, None));
                }
            },
        };
        let (mount, shown) = inspected.map_err(|failure| Attempt::Other(untold(source, &failure)))?;
        match weaker(&shown, options) {
            None => Ok((mount, Some(shown))),
            Some(difference) => Err(Attempt::Other(refused(source, &shown, &difference.without_secret(options)))),
        }
    }

    fn warn(&self, failure: &Failure) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %failure,
                "the driver cannot read mounts' options; it rejects mounts with options that it must check"
            );
        }
    }
}

fn untold(source: &str, failure: &Failure) -> Error {
    Error::Precondition(format!(
        "mounting {source}: the driver cannot check whether the requested options are in force: {failure}; give \
         it CAP_SYS_ADMIN, and seccomp and AppArmor profiles that allow mounting"
    ))
}

fn refused(source: &str, mount: &Mount, difference: &Difference) -> Error {
    // The table only adds detail to the message.
    let table = Table::read().unwrap_or_default();
    let others: Vec<&Mount> = table.mounts().filter(|other| other.id != mount.id && may_share(mount, other)).collect();
    let named = others.iter().take(NAMED).map(|other| other.target.to_string_lossy().escape_debug().to_string());
    let named = named.collect::<Vec<_>>().join(", ");
    let which = match others.len() {
        0 => "a mount that is not visible here, such as the driver's own".to_owned(),
        1..=NAMED => named,
        many => format!("{named} and {} more", many - NAMED),
    };
    let version = mount.option("vers").unwrap_or_default();
    Error::Precondition(format!(
        "mounting {source}: {difference}. The kernel shares the connection of an earlier mount of this server with \
         version {version}: {which}. Unmount it, and use the same `sec=`, `xprtsec=` and locks for all mounts of this \
         server; or request another `vers=`, which gets its own connection"
    ))
}

/// Whether two mounts may share a connection: they have the same server and version.
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
    fn an_error_names_the_request_the_option_in_force_and_what_to_do() {
        let line = b"26 25 0:26 / /mount rw - nfs4 nfs:/e rw,vers=4.2,hard,sec=sys,addr=192.0.2.1";
        let table = Table::parse(line);
        let mount = table.top(Path::new("/mount")).unwrap();
        let options = MountOptions::parse("mountOptions", ["xprtsec=mtls"]).unwrap();
        let difference = weaker(mount, &options).unwrap();
        let error = refused("nfs:/e", mount, &difference).to_string();
        for said in ["nfs:/e", "`xprtsec=mtls` was requested", "`xprtsec=none`", "version 4.2", "another `vers=`"] {
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
