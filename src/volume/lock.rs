//! The lock under which a volume is changed.
//!
//! It has three kinds of parts: the volume's name and the volume's directory exclusively, and the directories above it
//! shared. So two volumes exclude each other if they have one name or one directory, or if one's directory is inside
//! the other's. Volumes side by side, such as those of `subDir: NAMESPACE/NAME`, do not. (A volume without a `subDir`
//! has its name as its directory, so names and directories are locked alike.)
//!
//! Volumes side by side still meet in the directories above them: one call makes such a directory while another removes
//! it, because it is empty. The server decides: a directory with something in it is not removed, and nothing is made in
//! a removed one. The call that comes too late starts over (`Export::despite_removals`).

use crate::error::Result;
use crate::export::Export;
use crate::export::fs::{Fs, LockMode};
use crate::export::locks::{Guard, Part};
use crate::nfs::source::SubDir;
use crate::volume::id::{VolumeId, VolumeName};

/// A directory at this depth is locked together with all that is below it, so that a lock has few parts.
const LEVELS: usize = 8;

/// Locks a volume for a change: its name and its directory.
pub async fn lock<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<Guard<F>> {
    lock_directory(export, id.name().as_ref(), &id.sub_dir).await
}

/// Locks the directory `sub_dir` as that of a volume, and the name of the volume, if it is known.
pub async fn lock_directory<F: Fs>(
    export: &Export<F>,
    name: Option<&VolumeName>,
    sub_dir: &SubDir,
) -> Result<Guard<F>> {
    let path = sub_dir.as_str();
    let mut parts: Vec<Part> = path.match_indices('/').map(|(end, _)| (&path[..end], LockMode::Shared)).collect();
    parts.push((path, LockMode::Shared));
    parts.truncate(LEVELS);
    parts.last_mut().iter_mut().for_each(|leaf| leaf.1 = LockMode::Exclusive);
    parts.extend(name.map(|name| (name.as_str(), LockMode::Exclusive)));
    export.lock_parts(&parts).await
}

/// Locks the place of the archives of the directories that begin with `first`: shared for an archive with the name of
/// its directory, which no other directory's archive has, and exclusively to choose another name. A call takes this
/// lock last, and no other while it holds it. (No volume's name or directory contains `#`.)
pub(super) async fn lock_archives<F: Fs>(export: &Export<F>, first: &str, mode: LockMode) -> Result<Guard<F>> {
    export.lock_parts(&[(&format!("#archived#{first}"), mode)]).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;
    use tokio::time::timeout;

    use super::*;
    use crate::testing::crash_harness::connect;
    use crate::testing::memory::MemoryServer;

    const DEEP: &str = "1/2/3/4/5/6/7/8/9";

    #[rstest]
    #[case::side_by_side("nfs#export#team/a#v#", "nfs#export#team/b#w#", true)]
    #[case::one_directory("nfs#export#team/a#v#", "nfs#export#team/a#w#", false)]
    #[case::one_name("nfs#export#team/a#v#", "nfs#export#other/b#v#", false)]
    #[case::nested("nfs#export#team/a#v#", "nfs#export#team##", false)]
    #[case::nested_deeper("nfs#export#team/a/b/c#v#", "nfs#export#team/a#w#", false)]
    #[case::a_name_that_begins_alike("nfs#export#team/a#v#", "nfs#export#te##", true)]
    #[case::the_name_of_a_directory_above("nfs#export#team/a#v#", "nfs#export#other/b#team#", false)]
    #[case::below_the_last_level(&format!("nfs#export#{DEEP}/a#v#"), &format!("nfs#export#{DEEP}/b#w#"), false)]
    #[case::above_the_last_level(&format!("nfs#export#{DEEP}/a#v#"), "nfs#export#1/2/3#w#", false)]
    #[case::beside_the_last_level(&format!("nfs#export#{DEEP}/a#v#"), "nfs#export#1/2/3/4/5/6/7/9#w#", true)]
    #[tokio::test(start_paused = true)]
    async fn volumes_exclude_each_other_by_name_by_directory_and_by_nesting(
        #[case] one: &str,
        #[case] other: &str,
        #[case] together: bool,
        #[values(false, true)] two_controllers: bool,
    ) {
        let server = MemoryServer::new();
        let first = connect(&server);
        let other_controller = connect(&server);
        let second = if two_controllers { &other_controller } else { &first };
        for (held, wanted) in [(one, other), (other, one)] {
            let _lock = lock(&first, &VolumeId::parse(held).unwrap()).await.unwrap();
            let wanted = VolumeId::parse(wanted).unwrap();
            let locked = timeout(Duration::from_secs(1), lock(second, &wanted)).await;
            assert_eq!(locked.is_ok(), together, "{held}, {wanted}");
        }
    }
}
