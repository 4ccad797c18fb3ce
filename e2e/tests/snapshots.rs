//! Snapshots, and volumes that are created from snapshots and volumes.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use tonic::Request;

use crate::support::csi::volume_capability::access_mode::Mode;
use crate::support::requests::{self, MIB, from, of_snapshot, of_volume, snapshot};
use crate::support::tree::walk;
use crate::support::{Code, Driver, Lab, Place, Share, checked, csi, wait};

/// The properties below a directory that a copy must preserve: kind, mode, owner, size, links, times, content.
pub fn content(root: &Path) -> BTreeMap<String, String> {
    let shown = |(path, meta, content): (PathBuf, Metadata, String)| {
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        // NFS-Ganesha does not set the times of symbolic links.
        let times =
            if meta.is_symlink() { String::new() } else { format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()) };
        let entry = format!("{:o} {}:{} links {links} modified {times} {content}", meta.mode(), meta.uid(), meta.gid());
        (path.strip_prefix(root).unwrap().display().to_string(), entry)
    };
    walk(root).into_iter().map(shown).collect()
}

pub fn fill(volume: &Path) {
    fs::create_dir_all(volume.join("sub/empty")).unwrap();
    fs::write(volume.join("sub/file"), b"content").unwrap();
    fs::set_permissions(volume.join("sub/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    chown(volume.join("sub"), Some(1000), Some(2000)).unwrap();
    fs::hard_link(volume.join("sub/file"), volume.join("linked")).unwrap();
    symlink("../../outside", volume.join("link")).unwrap();
    fs::set_permissions(volume, fs::Permissions::from_mode(0o2770)).unwrap();
}

pub async fn listed(driver: &Driver, request: csi::ListSnapshotsRequest) -> Vec<String> {
    let answer = driver.controller().list_snapshots(request).await.unwrap().into_inner();
    let mut ids: Vec<_> = answer.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn a_clone_a_snapshot_and_a_restore_equal_the_volume_and_outlive_it() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    for place in [Place::Xfs, Place::Tmpfs] {
        let share = lab.share(place);
        let v = driver.create(requests::create(&share, "v")).await.unwrap();
        fill(&share.path.join("v"));
        let whole = content(&share.path.join("v"));

        let taken = driver.take(snapshot(&v.volume_id, "s")).await.unwrap();
        assert!(taken.ready_to_use && taken.size_bytes == MIB && taken.source_volume_id == v.volume_id, "{taken:?}");
        assert_eq!(
            driver.take(snapshot(&v.volume_id, "s")).await.unwrap(),
            taken,
            "a repeated call returns the same answer"
        );
        let clone = driver.create(from(&share, "c", of_volume(&v.volume_id))).await.unwrap();
        assert_eq!(content(&share.path.join("c")), whole, "{place:?}");
        assert_eq!(clone.content_source.unwrap().r#type, Some(of_volume(&v.volume_id)));

        fs::write(share.path.join("v/sub/file"), b"changed").unwrap();
        driver.delete(&v.volume_id).await.unwrap();
        let request = from(&share, "r", of_snapshot(&taken.snapshot_id));
        let restored = driver.create(request.clone()).await.unwrap();
        assert_eq!(content(&share.path.join("r")), whole, "{place:?}");
        assert_eq!(driver.create(request).await.unwrap(), restored);
        let other = from(&share, "r", of_volume(&clone.volume_id));
        assert_eq!(driver.create(other).await.unwrap_err().code(), Code::AlreadyExists);

        let by_id = csi::ListSnapshotsRequest { snapshot_id: taken.snapshot_id.clone(), ..Default::default() };
        assert_eq!(listed(&driver, by_id.clone()).await, std::slice::from_ref(&taken.snapshot_id));
        driver.drop_snapshot(&taken.snapshot_id).await.unwrap();
        driver.drop_snapshot(&taken.snapshot_id).await.unwrap();
        assert_eq!(listed(&driver, by_id).await, Vec::<String>::new());
        assert_eq!(content(&share.path.join("r")), whole, "{place:?}");
        checked::at_rest(&share).await;
        assert_eq!(share.names(), ["c", "r"]);
        assert!(share.left_in("snapshots").is_empty());
    }
}

#[tokio::test]
async fn copies_go_from_one_export_to_another_and_from_one_server_to_another() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    let (xfs, tmpfs, ganesha) = (lab.share(Place::Xfs), lab.share(Place::Tmpfs), lab.share(Place::Ganesha));
    let v = driver.create(requests::create(&xfs, "v")).await.unwrap();
    fill(&xfs.path.join("v"));
    let whole = content(&xfs.path.join("v"));
    let mut request = snapshot(&v.volume_id, "s");
    request.parameters = requests::map([("server", &tmpfs.server), ("Share", &tmpfs.share)]);
    let taken = driver.take(request).await.unwrap();
    assert!(taken.ready_to_use, "{taken:?}");
    assert_eq!(content(&tmpfs.path.join(".csi-nfs/snapshots/s.tree")), whole);
    driver.create(from(&ganesha, "r", of_snapshot(&taken.snapshot_id))).await.unwrap();
    driver.create(from(&tmpfs, "c", of_volume(&v.volume_id))).await.unwrap();
    for copy in [ganesha.path.join("r"), tmpfs.path.join("c")] {
        assert_eq!(content(&copy), whole, "{}", copy.display());
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let v = driver.create(requests::create(&share, "v")).await.unwrap();
    let w = driver.create(requests::create(&share, "w")).await.unwrap();
    let s = driver.take(snapshot(&v.volume_id, "s")).await.unwrap();
    let refused = async |request| driver.create(request).await.unwrap_err().code();
    let smaller = csi::CreateVolumeRequest {
        capacity_range: requests::bytes(MIB / 2),
        ..from(&share, "small", of_snapshot(&s.snapshot_id))
    };
    assert_eq!(refused(smaller).await, Code::OutOfRange);
    let gone = s.snapshot_id.replace("#s#", "#other#");
    for source in [of_snapshot(&gone), of_snapshot("x"), of_volume("x"), of_volume(&v.volume_id.replace("#v#", "#x#"))]
    {
        assert_eq!(refused(from(&share, "n", source)).await, Code::NotFound);
    }
    fs::create_dir(share.path.join("taken")).unwrap();
    fs::write(share.path.join("taken/file"), b"theirs").unwrap();
    assert_eq!(refused(from(&share, "taken", of_volume(&v.volume_id))).await, Code::AlreadyExists);
    assert_eq!(fs::read(share.path.join("taken/file")).unwrap(), b"theirs");
    let refused = async |request| driver.take(request).await.unwrap_err();
    assert_eq!(refused(snapshot(&w.volume_id, "s")).await.code(), Code::AlreadyExists);
    assert_eq!(refused(snapshot(&v.volume_id.replace("#v#", "#x#"), "t")).await.code(), Code::NotFound);
    let mut unknown = snapshot(&v.volume_id, "t");
    unknown.parameters = requests::map([("compression", "true")]);
    let status = refused(unknown).await;
    assert!(status.code() == Code::InvalidArgument && status.message().contains("compression"), "{status}");
    assert_eq!(share.names(), ["taken", "v", "w"]);
    assert_eq!(share.left_in("volumes").len(), 2);
    assert!(share.left_in("staging").is_empty());
}

#[tokio::test]
async fn a_call_whose_deadline_passes_leaves_its_copy_running_and_the_retry_joins_it() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Tmpfs);
    let driver = Driver::start().await;
    let v = driver.create(requests::create(&share, "v")).await.unwrap();
    for n in 0..1000 {
        fs::write(share.path.join(format!("v/{n}")), n.to_string()).unwrap();
    }
    let request = from(&share, "c", of_volume(&v.volume_id));
    let mut hurried = Request::new(request.clone());
    hurried.set_timeout(Duration::from_millis(20));
    driver.controller().create_volume(hurried).await.unwrap_err();
    driver.create(request).await.unwrap();
    assert_eq!(content(&share.path.join("c")), content(&share.path.join("v")));
    assert_eq!(driver.log().matches("copy finished").count(), 1, "{}", driver.log());
}

#[tokio::test]
async fn the_answers_to_a_call_for_a_large_clone_say_how_far_it_is_until_it_is_there() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Tmpfs);
    let (driver, v) = slow_of(&share, 20_000).await;
    let request = from(&share, "c", of_volume(&v.volume_id));
    let mut told = Vec::new();
    loop {
        let mut call = Request::new(request.clone());
        call.set_timeout(Duration::from_millis(1500));
        match driver.controller().create_volume(call).await {
            Ok(_) => break,
            Err(status) => {
                assert_eq!(status.code(), Code::Aborted, "{status}");
                told.push(status.message().to_owned());
            }
        }
    }
    let entries = |message: &String| -> u64 {
        let far = message.strip_prefix("volume `c` is being filled: copied ").unwrap();
        far.split(' ').next().unwrap().parse().unwrap()
    };
    let far: Vec<u64> = told.iter().map(entries).collect();
    assert!(far.len() > 1 && far.is_sorted_by(|a, b| a < b), "{told:#?}");
    assert!(told.iter().all(|told| told.ends_with("; the copy goes on, call again")), "{told:#?}");
    assert!(told.iter().any(|told| told.contains(" of 20001 entries, ") && told.contains("s left; ")), "{told:#?}");
    assert_eq!(driver.log().matches("copy finished").count(), 1, "all calls joined one copy");
}

#[tokio::test]
async fn a_copy_that_a_kill_cuts_short_is_swept_and_made_anew() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Tmpfs);
    let mut driver = Driver::start().await;
    let v = driver.create(requests::create(&share, "v")).await.unwrap();
    for n in 0..1000 {
        fs::write(share.path.join(format!("v/{n}")), n.to_string()).unwrap();
    }
    let mut controller = driver.controller();
    let request = snapshot(&v.volume_id, "s");
    let call = tokio::spawn(async move { controller.create_snapshot(request).await });
    wait::until("the copy in staging", Duration::from_secs(20), || {
        (!share.left_in("staging").is_empty()).then_some(())
    })
    .await;
    driver.kill();
    call.await.unwrap().unwrap_err();
    driver.start_again().await;
    assert_eq!(listed(&driver, csi::ListSnapshotsRequest::default()).await, Vec::<String>::new());
    wait::until_async("the snapshot", Duration::from_secs(60), async || {
        driver.take(snapshot(&v.volume_id, "s")).await.unwrap().ready_to_use
    })
    .await;
    assert_eq!(content(&share.path.join(".csi-nfs/snapshots/s.tree")), content(&share.path.join("v")));
    checked::at_rest(&share).await;
}

/// The longest time until a snapshot of a small volume is ready.
const READY: Duration = Duration::from_secs(100);

/// A driver, and a volume that it needs seconds to copy.
async fn slow(share: &Share) -> (Driver, csi::Volume) {
    slow_of(share, 12_000).await
}

/// A driver that copies one entry at a time, and a volume of so many files.
async fn slow_of(share: &Share, files: usize) -> (Driver, csi::Volume) {
    let driver = Driver::with(&["--copy-workers=1"]).await;
    let v = driver.create(requests::create(share, "v")).await.unwrap();
    for n in 0..files {
        fs::write(share.path.join(format!("v/{n}")), n.to_string()).unwrap();
    }
    (driver, v)
}

#[tokio::test]
async fn a_snapshot_that_takes_long_is_answered_before_it_is_ready_and_keeps_its_time() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Tmpfs);
    let (driver, v) = slow(&share).await;
    let begun = driver.take(snapshot(&v.volume_id, "s")).await.unwrap();
    assert!(!begun.ready_to_use, "{begun:?}");
    assert_eq!(listed(&driver, csi::ListSnapshotsRequest::default()).await, Vec::<String>::new());
    let early = driver.create(from(&share, "r", of_snapshot(&begun.snapshot_id))).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition, "{early}");
    wait::until_async("the snapshot is ready", READY, async || {
        let now = driver.take(snapshot(&v.volume_id, "s")).await.unwrap();
        assert_eq!(csi::Snapshot { ready_to_use: false, ..now.clone() }, begun);
        now.ready_to_use
    })
    .await;
    assert_eq!(driver.log().matches("copy finished").count(), 1, "all calls joined one copy");
    assert_eq!(content(&share.path.join(".csi-nfs/snapshots/s.tree")), content(&share.path.join("v")));
}

#[tokio::test]
async fn a_driver_that_is_told_to_end_breaks_a_copy_off_and_the_next_one_makes_it_anew() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Tmpfs);
    let (mut driver, v) = slow(&share).await;
    let clone = from(&share, "c", of_volume(&v.volume_id));
    let (mut one, mut other) = (driver.controller(), driver.controller());
    let (taking, cloning) = (snapshot(&v.volume_id, "s"), clone.clone());
    let calls = (
        tokio::spawn(async move { one.create_snapshot(taking).await.map(drop) }),
        tokio::spawn(async move { other.create_volume(cloning).await.map(drop) }),
    );
    wait::until("both copies in staging", Duration::from_secs(20), || {
        (share.left_in("staging").len() >= 2).then_some(())
    })
    .await;
    let begin = Instant::now();
    assert!(driver.terminate().await.success());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    for call in [calls.0, calls.1] {
        assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(share.names(), ["v"]);
    driver.start_again().await;
    assert_eq!(listed(&driver, csi::ListSnapshotsRequest::default()).await, Vec::<String>::new());
    driver.create(clone).await.unwrap();
    wait::until_async("the snapshot is ready", READY, async || {
        driver.take(snapshot(&v.volume_id, "s")).await.unwrap().ready_to_use
    })
    .await;
    for copy in ["c", ".csi-nfs/snapshots/s.tree"] {
        assert_eq!(content(&share.path.join(copy)), content(&share.path.join("v")), "{copy}");
    }
    checked::at_rest(&share).await;
}

#[tokio::test]
async fn a_claim_for_reading_shows_the_snapshot_itself_and_keeps_it() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let v = driver.create(requests::create(&share, "v")).await.unwrap();
    fill(&share.path.join("v"));
    let whole = content(&share.path.join("v"));
    let s = driver.take(snapshot(&v.volume_id, "s")).await.unwrap();
    let reading = |name: &str| csi::CreateVolumeRequest {
        volume_capabilities: vec![requests::mounted(Mode::MultiNodeReaderOnly, &[])],
        ..from(&share, name, of_snapshot(&s.snapshot_id))
    };
    let mut copied = reading("copied");
    copied.parameters.insert("readOnlyFromSnapshot".to_owned(), "copy".to_owned());
    driver.create(copied).await.unwrap();
    let shown = driver.create(reading("shown")).await.unwrap();
    assert_eq!(driver.create(reading("shown")).await.unwrap(), shown);
    assert_eq!(share.names(), ["copied", "v"], "a snapshot-backed volume has no directory");

    driver.drop_snapshot(&s.snapshot_id).await.unwrap();
    let target = driver.target("pod");
    let mut publish = requests::publish(&shown, &target);
    publish.volume_capability = Some(requests::mounted(Mode::MultiNodeReaderOnly, &[]));
    driver.node().node_publish_volume(publish).await.unwrap();
    assert_eq!(content(&target), whole);
    let refused = fs::write(target.join("new"), b"x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(unmount(&target, UnmountFlags::NOFOLLOW), Ok(()));
    driver.unpublish(&shown.volume_id, &target).await.unwrap();
    assert_eq!(driver.create(reading("late")).await.unwrap_err().code(), Code::NotFound);

    driver.delete(&shown.volume_id).await.unwrap();
    checked::at_rest(&share).await;
    assert!(share.left_in("snapshots").is_empty(), "the last snapshot-backed volume removes the snapshot");
}

#[tokio::test]
async fn a_list_of_snapshots_comes_in_pages_and_by_volume() {
    let lab = Lab::enter().await;
    let (one, two) = (lab.share(Place::Xfs), lab.share(Place::Tmpfs));
    let driver = Driver::start().await;
    let mut made = Vec::new();
    for share in [&one, &two] {
        let v = driver.create(requests::create(share, "v")).await.unwrap();
        for name in ["a", "b", "c"] {
            made.push((v.volume_id.clone(), driver.take(snapshot(&v.volume_id, name)).await.unwrap().snapshot_id));
        }
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = csi::ListSnapshotsRequest { max_entries: 2, starting_token: token, ..Default::default() };
        let page = driver.controller().list_snapshots(request).await.unwrap().into_inner();
        assert!(!page.entries.is_empty() && page.entries.len() <= 2);
        seen.extend(page.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id));
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    seen.sort();
    let mut all: Vec<String> = made.iter().map(|(_, id)| id.clone()).collect();
    all.sort();
    assert_eq!(seen, all);
    // A process that knows no export can delete the snapshot, too.
    let other = Driver::start().await;
    let source_volume_id = made[0].0.clone();
    let of_one = listed(&other, csi::ListSnapshotsRequest { source_volume_id, ..Default::default() }).await;
    assert_eq!(of_one, made[..3].iter().map(|(_, id)| id.clone()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_restore_into_a_directory_that_volumes_share_is_whole_or_refused_and_replaces_nobodys() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let mut driver = Driver::start().await;
    let v = driver.create(requests::create(&share, "v")).await.unwrap();
    fill(&share.path.join("v"));
    let taken = driver.take_whole(snapshot(&v.volume_id, "s")).await.unwrap();
    let (media, whole) = (share.path.join("media"), content(&share.path.join("v")));
    let restore = |name: &str| {
        let mut request = from(&share, name, of_snapshot(&taken.snapshot_id));
        request.parameters.insert("subDir".into(), "media".into());
        request
    };
    let plain = requests::create_with(&share, "b", "subDir", "media");
    driver.create(restore("a")).await.unwrap();
    // The controller dies while it fills the volume, and leaves a pending record.
    driver.kill();
    let record = share.path.join(".csi-nfs/volumes/a.json");
    let text = fs::read_to_string(&record).unwrap();
    let pending = format!("{},\"pending\":true}}", text.strip_suffix('}').unwrap());
    fs::write(&record, pending).unwrap();
    fs::remove_dir_all(&media).unwrap();
    driver.start_again().await;

    for other in [plain.clone(), restore("c")] {
        let refused = driver.create(other).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
        assert!(refused.message().contains("volume a is being filled there"), "{refused}");
    }
    // Somebody creates a directory there by hand. The driver neither uses it as the restored volume nor replaces it.
    fs::create_dir(&media).unwrap();
    fs::write(media.join("theirs"), "precious").unwrap();
    assert_eq!(driver.create(restore("a")).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(fs::read_to_string(media.join("theirs")).unwrap(), "precious");
    fs::remove_dir_all(&media).unwrap();

    wait::until_async("the restore", Duration::from_secs(30), async || driver.create(restore("a")).await.is_ok()).await;
    assert_eq!(content(&media), whole);
    driver.create(plain).await.unwrap();
    assert_eq!(content(&media), whole);
    // The driver restores no volume into a directory that has volumes.
    assert_eq!(driver.create(restore("c")).await.unwrap_err().code(), Code::AlreadyExists);
    checked::at_rest(&share).await;
}

#[tokio::test]
async fn a_snapshot_of_what_is_not_there_leaves_nothing_on_the_export_and_in_no_volume() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    // A directory that somebody made by hand, or that csi-driver-nfs keeps.
    std::fs::create_dir(share.path.join("keep")).unwrap();
    let (server, path) = (&share.server, &share.share[1..]);
    for volume_id in [
        format!("{server}#{path}#nothing##"),
        format!("{server}##{path}/nothing##"),
        format!("{server}##keep##"),
        format!("{server}/{path}/keep/inner"),
        format!("{server}#{path}/keep#inner##"),
    ] {
        let status = driver.controller().create_snapshot(requests::snapshot(&volume_id, "s")).await.unwrap_err();
        assert_ne!(status.code(), Code::Internal, "{volume_id}: {status}");
        assert_eq!(share.names(), ["keep"], "{volume_id}: {status}");
        assert_eq!(std::fs::read_dir(share.path.join("keep")).unwrap().count(), 0, "{volume_id}: {status}");
        assert!(!share.path.join(".csi-nfs").exists(), "{volume_id}: {status}");
    }
}
