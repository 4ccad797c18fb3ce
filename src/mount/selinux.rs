//! What SELinux on this node has to do with an error.

use std::path::Path;

use rustix::io::Errno;

/// The kernel has this directory if SELinux is on. selinuxfs is mounted there, in containers not always.
const SELINUX: &str = "/sys/fs/selinux";

/// Whether SELinux is on in this node's kernel.
pub fn is_on() -> bool {
    Path::new(SELINUX).is_dir()
}

/// For a call that failed with EACCES on this node: where to look, if SELinux may have denied the call. Otherwise
/// empty.
pub fn hint(errno: Errno) -> &'static str {
    hint_at(Path::new(SELINUX), errno)
}

fn hint_at(selinux: &Path, errno: Errno) -> &'static str {
    if errno != Errno::ACCESS || !selinux.is_dir() {
        return "";
    }
    match std::fs::read_to_string(selinux.join("enforce")).as_deref().map(str::trim) {
        Ok("0") => "",
        Ok(_) => {
            "; SELinux is enforcing on this node: if `ausearch -m avc -ts recent` shows a denial, give the driver's \
             container a type that may do this (seLinuxOptions: {type: spc_t})"
        }
        Err(_) => {
            "; SELinux is on in this node's kernel: if `ausearch -m avc -ts recent` shows a denial, give the driver's \
             container a type that may do this (seLinuxOptions: {type: spc_t})"
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::enforcing(Some("1"), Errno::ACCESS, "enforcing")]
    #[case::unknown_in_a_container(None, Errno::ACCESS, "SELinux is on")]
    #[case::permissive(Some("0\n"), Errno::ACCESS, "")]
    #[case::another_error(Some("1"), Errno::PERM, "")]
    fn selinux_is_named_where_it_may_have_denied_a_call(
        #[case] enforce: Option<&str>,
        #[case] errno: Errno,
        #[case] said: &str,
    ) {
        let selinux = tempfile::tempdir().unwrap();
        if let Some(enforce) = enforce {
            std::fs::write(selinux.path().join("enforce"), enforce).unwrap();
        }
        let hint = hint_at(selinux.path(), errno);
        assert!(hint.contains(said) && hint.is_empty() == said.is_empty(), "{hint}");
        assert_eq!(hint_at(&selinux.path().join("missing"), errno), "");
    }
}
