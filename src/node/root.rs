//! The root directory of a mounted volume: its identity, and its required group and mode.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, StatxFlags};
use rustix::io::Errno;

/// Setgid and all permissions for the group: the mode bits of a volume's root if the volume has a group.
const GROUP_MODE: u32 = 0o2070;
/// Read, write and execute for owner, group and others.
const PERMISSIONS: u32 = 0o777;

/// The root directory of a mounted volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// Which directory it is, independently of the name that was mounted.
    pub identity: Identity,
    /// Its permission bits, with the setuid, setgid and sticky bits.
    pub mode: u32,
    /// Its group.
    pub group: u32,
}

/// Identifies a directory on an NFS server, as long as it is mounted on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// `st_dev`, major and minor.
    pub device: (u32, u32),
    /// `st_ino`.
    pub inode: u64,
}

impl Root {
    /// Reads the root of a mount from the server, by a descriptor. May block.
    pub fn ask(root: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        Self::stat(root, Path::new(""), AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC)
    }

    /// Reads the root of a mount from the server, by its path. May block.
    pub fn ask_at(path: &Path) -> rustix::io::Result<Self> {
        Self::stat(CWD, path, AtFlags::STATX_FORCE_SYNC)
    }

    /// Reads the root of a mount from the kernel's cache, by a descriptor. Does not ask the server.
    pub fn known(root: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        Self::stat(root, Path::new(""), AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC)
    }

    fn stat(dir: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> rustix::io::Result<Self> {
        let fields = StatxFlags::MODE | StatxFlags::GID | StatxFlags::INO;
        let stat = rustix::fs::statx(dir, path, flags | AtFlags::SYMLINK_NOFOLLOW, fields)?;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        Ok(Self {
            identity: Identity { device, inode: stat.stx_ino },
            mode: u32::from(stat.stx_mode) & 0o7777,
            group: stat.stx_gid,
        })
    }
}

/// The required group and mode of a volume's root directory; `None` leaves them unchanged. A volume that is mounted
/// read-only is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RootAttributes {
    /// The group, with setgid and all permissions for it (CSI `volume_mount_group`).
    pub group: Option<u32>,
    /// Permission bits. Setuid, setgid and sticky only change if the mode contains one of them.
    pub mode: Option<u32>,
}

impl RootAttributes {
    /// Sets the group and mode of the root of a new mount if they differ. `now` is the root's current state on the
    /// server. May block. If the server does not change the group, the group that stays gets no more rights.
    pub fn set(self, root: BorrowedFd<'_>, now: Root) -> rustix::io::Result<()> {
        let change = self.change(now.mode, now.group);
        if let Some(group) = change.group
            && let Err(errno) =
                rustix::fs::chownat(root, ".", None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)
        {
            Self { group: None, ..self }.set(root, now)?;
            return Err(errno);
        }
        if let Some(mode) = change.mode {
            rustix::fs::chmodat(root, ".", Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        Ok(())
    }

    /// Whether the volume is to have another group than a root with this state has.
    pub fn other_group(self, now: Root) -> Option<u32> {
        self.group.filter(|group| *group != now.group)
    }

    /// What to set on a root with this mode and group.
    fn change(self, mode: u32, group: u32) -> Self {
        let given =
            self.mode.map_or(mode, |given| if given > PERMISSIONS { given } else { mode & !PERMISSIONS | given });
        let full = if self.group.is_some() { given | GROUP_MODE } else { given };
        let group = self.group.filter(|wanted| *wanted != group);
        // chown(2) may clear setgid.
        Self { group, mode: (full != mode || group.is_some()).then_some(full) }
    }
}

/// Whether the server refuses a change of a group or a mode, and will refuse it again: root is squashed, it does not
/// know the group, the export is read-only, or the group's quota is used up.
pub fn is_refused(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::PERM | Errno::ACCESS | Errno::ROFS | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::DQUOT
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NONE: RootAttributes = RootAttributes { group: None, mode: None };

    #[rstest]
    #[case::nothing_asked(None, None, 0o755, 0, NONE)]
    #[case::mode_there(None, Some(0o755), 0o755, 0, NONE)]
    #[case::mode(None, Some(0o777), 0o755, 0, RootAttributes { group: None, mode: Some(0o777) })]
    #[case::special_bits_stay(None, Some(0o777), 0o2777, 0, NONE)]
    #[case::special_bits_are_set(None, Some(0o1777), 0o2777, 0, RootAttributes { group: None, mode: Some(0o1777) })]
    #[case::group_there(Some(5), None, 0o2770, 5, NONE)]
    #[case::group(Some(5), None, 0o2770, 0, RootAttributes { group: Some(5), mode: Some(0o2770) })]
    #[case::group_without_rights(Some(5), None, 0o755, 5, RootAttributes { group: None, mode: Some(0o2775) })]
    #[case::both(Some(5), Some(0o700), 0o755, 0, RootAttributes { group: Some(5), mode: Some(0o2770) })]
    fn only_what_the_root_lacks_is_set(
        #[case] group: Option<u32>,
        #[case] mode: Option<u32>,
        #[case] has_mode: u32,
        #[case] has_group: u32,
        #[case] expected: RootAttributes,
    ) {
        assert_eq!(RootAttributes { group, mode }.change(has_mode, has_group), expected);
    }
}
