//! Snapshots, restores and clones.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use super::*;
use crate::snapshot::archive::tests::{archive, file};
use crate::snapshot::record::{Record as SnapshotRecord, State};
use crate::testing::crash_harness::reach;
use crate::volume::id::VolumeId;
use crate::volume::record::{Origin, Record};
use crate::volume::record_file::RecordFile as _;

#[tokio::test]
async fn a_snapshot_on_another_server_outlives_its_volume_and_is_restored_elsewhere() {
    let mut lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    lab.server("a").plant("v/file", Node::file(0o600, "mine").owned_by(5, 6)).unwrap();
    let s = lab.snapshot(&v, "s", &[("server", "b")]).await.unwrap();
    assert_eq!((s.snapshot_id.as_str(), s.ready_to_use), ("b#export#s###snapshot", true));
    lab.restart();
    assert_eq!(lab.snapshot(&v, "s", &[("server", "b")]).await.unwrap(), s);
    assert_eq!(lab.snapshots("").await, ["b#export#s###snapshot"]);
    lab.delete(&v).await.unwrap();
    assert_eq!(lab.snapshot(&v, "s", &[("server", "b")]).await.unwrap(), s, "the snapshot outlives its volume");
    let r = lab.fill("a", "r", of_snapshot(&s.snapshot_id)).await.unwrap();
    assert_eq!(r.content_source, of_snapshot(&s.snapshot_id));
    let tree = lab.server("a").tree();
    assert_eq!(tree.get("r/file").unwrap().text(), "mine");
    let request = csi::DeleteSnapshotRequest { snapshot_id: s.snapshot_id.clone(), ..Default::default() };
    Rpc::delete_snapshot(&lab.controller, Request::new(request)).await.unwrap();
    assert_eq!(lab.snapshots("").await, Vec::<String>::new());
    assert_eq!(lab.fill("a", "r", of_snapshot(&s.snapshot_id)).await.unwrap(), r, "the volume exists already");
    let late = lab.fill("a", "late", of_snapshot(&s.snapshot_id)).await.unwrap_err();
    assert_eq!(late.code(), Code::NotFound, "{late}");
}

#[tokio::test]
async fn a_snapshot_is_made_with_the_options_of_its_volume_only_on_the_volume_s_export() {
    let lab = Lab::new("vers=3");
    let volume_capabilities = vec![mount(Mode::MultiNodeMultiWriter, &["vers=3"])];
    let request = csi::CreateVolumeRequest { volume_capabilities, ..request("a", "v") };
    let v = lab.controller.create_volume(Request::new(request)).await.unwrap().into_inner().volume.unwrap().volume_id;
    assert!(lab.snapshot(&v, "s", &[]).await.unwrap().ready_to_use);
    let status = lab.snapshot(&v, "t", &[("server", "b")]).await.unwrap_err();
    assert!(status.message().contains("b:/export"), "{status}");
}

#[tokio::test]
async fn a_volume_is_listed_with_its_content_source_and_another_source_conflicts() {
    let lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    let c = lab.fill("a", "c", of_volume(&v)).await.unwrap();
    let listed = lab.controller.list_volumes(Request::new(csi::ListVolumesRequest::default())).await.unwrap();
    assert!(listed.into_inner().entries.into_iter().any(|entry| entry.volume.as_ref() == Some(&c)));
    for source in [None, of_volume("a#export#c##")] {
        assert_eq!(lab.fill("a", "c", source).await.unwrap_err().code(), Code::AlreadyExists);
    }
    for source in [of_volume(""), of_snapshot(""), Some(csi::VolumeContentSource::default())] {
        assert_eq!(lab.fill("a", "d", source).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn the_error_of_a_copy_is_returned_and_nothing_stays() {
    let lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    lab.server("a").plant("v/large", Node::file(0o600, "x".repeat(100_000))).unwrap();
    lab.server("a").set_clone_supported(false);
    let before = lab.server("a").tree().paths();
    lab.server("a").set_capacity(120_000, 1_000_000);
    assert_eq!(lab.fill("a", "c", of_volume(&v)).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(lab.snapshot(&v, "s", &[]).await.unwrap_err().code(), Code::ResourceExhausted);
    lab.server("a").set_capacity(1 << 40, 1_000_000);
    while lab.server("a").tree().paths() != before {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(lab.snapshot(&v, "s", &[]).await.unwrap().ready_to_use);
}

/// Leaves the clone `c` of the volume `v` pending, and deletes `v`.
async fn half_a_clone(lab: &Lab, other: &Export<MemoryFs>, v: &str) -> Record {
    let id = VolumeId::parse("a#export#c##").unwrap();
    let pending = Record { pending: true, origin: Some(Origin::Volume(v.to_owned())), ..Record::unrecorded(&id) };
    pending.write(other).await.unwrap();
    lab.delete(v).await.unwrap();
    pending
}

/// The record of the clone `c`.
async fn clone_now(on: &Export<MemoryFs>) -> Option<Record> {
    Record::read(on, &VolumeName::parse("", "c").unwrap()).await.unwrap()
}

/// What another controller's copy has done when it ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Copied {
    Nothing,
    Placed,
    All,
}

#[rstest::rstest]
#[tokio::test(start_paused = true)]
async fn a_call_whose_source_is_gone_waits_for_a_copy_that_another_controller_has_begun(
    #[values(Copied::Nothing, Copied::Placed, Copied::All)] copied: Copied,
) {
    let lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    let other = reach(lab.server("a"));
    let copying = other.lock(&["#volume#c"]).await.unwrap();
    let pending = half_a_clone(&lab, &other, &v).await;
    let mut call = Box::pin(lab.fill("a", "c", of_volume(&v)));
    assert!(tokio::time::timeout(std::time::Duration::from_secs(9), &mut call).await.is_err());
    if copied != Copied::Nothing {
        lab.server("a").plant("c/file", Node::file(0o600, "copied")).unwrap();
        let staged = crate::volume::directory::file_id(&other, &pending).await.unwrap();
        Record { pending: copied == Copied::Placed, staged, ..pending }.write(&other).await.unwrap();
    }
    drop(copying);
    let answer = call.await;
    let record = clone_now(&other).await;
    if copied == Copied::Nothing {
        assert_eq!((answer.unwrap_err().code(), record), (Code::NotFound, None));
    } else {
        assert!(answer.unwrap().volume_id == "a#export#c##" && !record.unwrap().pending);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gives_up_while_it_waits_for_another_controllers_copy_leaves_nobody_waiting() {
    let lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    let other = reach(lab.server("a"));
    let copying = other.lock(&["#volume#c"]).await.unwrap();
    let pending = half_a_clone(&lab, &other, &v).await;
    let call = lab.fill("a", "c", of_volume(&v));
    assert!(tokio::time::timeout(std::time::Duration::from_secs(9), call).await.is_err());
    drop(copying);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(clone_now(&other).await, Some(pending), "a retry settles it");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_source_is_gone_returns_the_snapshot_that_another_controller_completes_meanwhile() {
    let lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    let id = lab.snapshot(&v, "s", &[]).await.unwrap().snapshot_id;
    let (other, name) = (reach(lab.server("a")), VolumeName::parse("", "s").unwrap());
    let ready = SnapshotRecord::read(&other, &name).await.unwrap().unwrap();
    SnapshotRecord { state: State::Pending, ..ready.clone() }.write(&other).await.unwrap();
    lab.delete(&v).await.unwrap();
    let lock = crate::snapshot::lock::lock(&other, &name).await.unwrap();
    let mut call = Box::pin(lab.snapshot(&v, "s", &[]));
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), &mut call).await.is_err());
    ready.write(&other).await.unwrap();
    drop(lock);
    let taken = call.await.unwrap();
    assert!(taken.ready_to_use && taken.snapshot_id == id);
}

/// Starts the call while its copy has to wait. Another controller replaces the volume `v` before the copy goes on.
async fn beside_a_replacement<T>(lab: &Lab, job: &str, call: impl Future<Output = T>) -> T {
    let copying = reach(lab.server("a")).lock(&[job]).await.unwrap();
    let mut call = Box::pin(call);
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), &mut call).await.is_err());
    replace(&lab.other(), 1).await;
    drop(copying);
    call.await
}

/// Deletes the volume `v`, and creates another one of that name and of that many MiB.
async fn replace(lab: &Lab, mib: i64) -> String {
    lab.delete("a#export#v##").await.unwrap();
    sized(lab, mib).await
}

async fn sized(lab: &Lab, mib: i64) -> String {
    let capacity_range = Some(csi::CapacityRange { required_bytes: mib << 20, limit_bytes: 0 });
    let request = csi::CreateVolumeRequest { capacity_range, ..request("a", "v") };
    lab.controller.create_volume(Request::new(request)).await.unwrap().into_inner().volume.unwrap().volume_id
}

#[tokio::test(start_paused = true)]
async fn a_copy_never_mixes_the_size_of_a_volume_with_the_content_of_its_replacement() {
    let lab = Lab::new("");
    let v = sized(&lab, 3).await;
    let cloned = beside_a_replacement(&lab, "#volume#c", lab.fill("a", "c", of_volume(&v))).await;
    assert_eq!(cloned.unwrap_err().code(), Code::Unavailable);
    assert_eq!(lab.fill("a", "c", of_volume(&v)).await.unwrap().capacity_bytes, 1 << 20);
    replace(&lab, 3).await;
    let taken = beside_a_replacement(&lab, "#snapshot#s", lab.snapshot(&v, "s", &[])).await;
    assert_eq!(taken.unwrap_err().code(), Code::Unavailable);
    assert_eq!(lab.snapshot(&v, "s", &[]).await.unwrap().size_bytes, 1 << 20);
}

#[tokio::test]
async fn a_copy_that_a_crash_interrupted_takes_the_size_that_its_source_has_when_it_begins_anew() {
    for mib in [1, 5] {
        let mut lab = Lab::new("");
        let v = sized(&lab, 3).await;
        lab.fill("a", "c", of_volume(&v)).await.unwrap();
        lab.snapshot(&v, "s", &[]).await.unwrap();
        let export = reach(lab.server("a"));
        let name = |name| VolumeName::parse("", name).unwrap();
        let volume = Record::read(&export, &name("c")).await.unwrap().unwrap();
        Record { pending: true, ..volume }.write(&export).await.unwrap();
        let snapshot = SnapshotRecord::read(&export, &name("s")).await.unwrap().unwrap();
        SnapshotRecord { state: State::Pending, ..snapshot }.write(&export).await.unwrap();
        for gone in ["c", ".csi-nfs/snapshots/s.tree"] {
            lab.server("a").remove(gone).unwrap();
        }
        lab.restart();
        replace(&lab, mib).await;
        assert_eq!(lab.fill("a", "c", of_volume(&v)).await.unwrap().capacity_bytes, mib << 20);
        assert_eq!(lab.snapshot(&v, "s", &[]).await.unwrap().size_bytes, mib << 20);
    }
}

#[tokio::test]
async fn snapshots_that_are_taken_at_the_same_time_have_copies_of_their_own() {
    let lab = Lab::new("");
    let (v, w) = (lab.create("a", "v", &[]).await.unwrap(), lab.create("a", "w", &[]).await.unwrap());
    lab.server("a").plant("v/of", Node::file(0o600, "v")).unwrap();
    lab.server("a").plant("w/of", Node::file(0o600, "w")).unwrap();
    let (of_v, of_w) = tokio::join!(lab.snapshot(&v, "s", &[]), lab.snapshot(&w, "t", &[]));
    assert!(of_v.unwrap().ready_to_use && of_w.unwrap().ready_to_use);
    let tree = lab.server("a").tree();
    assert_eq!(tree.get(".csi-nfs/snapshots/s.tree/of").unwrap().text(), "v");
    assert_eq!(tree.get(".csi-nfs/snapshots/t.tree/of").unwrap().text(), "w");
}

#[tokio::test]
async fn an_archive_is_unpacked_up_to_the_size_that_was_requested() {
    let lab = Lab::new("");
    let content = file("./file", &"x".repeat(3 << 20));
    lab.server("a").plant("s/v.tar", Node::file(0o600, archive(&[content]))).unwrap();
    let restored = async |name, mib: i64| {
        let capacity_range = Some(csi::CapacityRange { required_bytes: mib << 20, limit_bytes: mib << 20 });
        let source = of_snapshot("a#export#s#s#v");
        let request = csi::CreateVolumeRequest { capacity_range, volume_content_source: source, ..request("a", name) };
        lab.controller.create_volume(Request::new(request)).await.map(|_| ())
    };
    let status = restored("small", 1).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(!lab.server("a").tree().has("small"));
    restored("large", 5).await.unwrap();
    restored("unlimited", 0).await.unwrap();
    for name in ["large", "unlimited"] {
        assert_eq!(lab.server("a").tree().get(format!("{name}/file")).unwrap().text().len(), 3 << 20);
    }
}

#[tokio::test]
async fn a_snapshot_backs_a_volume_only_if_its_class_allows_it_and_nobody_can_write_to_it() {
    let lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    let s = lab.snapshot(&v, "s", &[]).await.unwrap().snapshot_id;
    let (reader, writer) = (Mode::MultiNodeReaderOnly, Mode::MultiNodeMultiWriter);
    for (name, mode, parameter, shown) in [
        ("shown", reader, ("readOnlyFromSnapshot", "direct"), true),
        ("copied", reader, ("readOnlyFromSnapshot", "copy"), false),
        ("written", writer, ("readOnlyFromSnapshot", "direct"), false),
        ("has-mode", reader, ("mountPermissions", "0750"), false),
        ("owned", reader, ("gid", "7"), false),
    ] {
        let mut request = request("a", name);
        request.parameters.extend(map(&[parameter]));
        request.volume_capabilities = vec![mount(mode, &[])];
        request.volume_content_source = of_snapshot(&s);
        lab.controller.create_volume(Request::new(request)).await.unwrap();
        assert_eq!(!lab.server("a").tree().has(name), shown, "{name}");
    }
}

#[tokio::test]
async fn a_retry_finds_the_complete_volume_although_the_export_of_its_source_is_lost() {
    let lab = Lab::new("");
    let source = of_volume(&lab.create("b", "v", &[]).await.unwrap());
    let made = lab.fill("a", "c", source.clone()).await.unwrap();
    let remaining = [(export_of("a"), lab.server("a").clone())];
    let servers = Servers::new(remaining.into(), "");
    let retried = Lab { controller: controller(&servers, &lab.configured), servers, configured: Configured::default() };
    assert_eq!(retried.fill("a", "c", source.clone()).await.unwrap(), made);
    assert!(retried.fill("a", "d", source).await.is_err());
}

#[tokio::test]
async fn snapshots_are_listed_in_pages_that_miss_nothing_and_archives_come_last() {
    let lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    let mut all = BTreeSet::new();
    for name in ["s", "t", "u"] {
        all.insert(lab.snapshot(&v, name, &[]).await.unwrap().snapshot_id);
    }
    // A recorded snapshot has the name of the first one.
    for name in ["s", "old", "older"] {
        lab.server("a").plant(format!("{name}/v.tar"), Node::file(0o600, "")).unwrap();
    }
    all.extend(["old", "older"].map(|name| format!("a#export#{name}#{name}#v")));
    for max_entries in 1..=6 {
        let (mut listed, mut starting_token) = (Vec::new(), String::new());
        for _ in 0..all.len() {
            let request = csi::ListSnapshotsRequest { max_entries, starting_token, ..Default::default() };
            let page = Rpc::list_snapshots(&lab.controller, Request::new(request)).await.unwrap().into_inner();
            listed.extend(page.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id));
            starting_token = page.next_token;
            if starting_token.is_empty() {
                break;
            }
        }
        assert_eq!(starting_token, "");
        assert_eq!(listed[3..], ["a#export#old#old#v", "a#export#older#older#v"]);
        assert_eq!((listed.len(), listed.into_iter().collect::<BTreeSet<_>>()), (all.len(), all.clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_copy_says_before_its_deadline_how_far_the_copy_is_and_a_retry_joins_it() {
    let lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    for number in 0..1000 {
        lab.server("a").plant(format!("v/{number}"), Node::file(0o600, "content")).unwrap();
    }
    let slow = |export: std::sync::Arc<Export<MemoryFs>>| async move {
        export.fs().delay(Duration::from_millis(100));
        Ok(())
    };
    lab.controller.exports.on(&export_of("a"), &MountOptions::default(), slow).await.unwrap();
    let filled = csi::CreateVolumeRequest { volume_content_source: of_volume(&v), ..request("a", "c") };
    let (mut far, mut all): (Vec<u64>, String) = Default::default();
    let made = loop {
        let mut call = Request::new(filled.clone());
        call.set_timeout(Duration::from_secs(10));
        let begun = tokio::time::Instant::now();
        match lab.controller.create_volume(call).await {
            Ok(made) => break made.into_inner().volume.unwrap(),
            Err(status) => {
                assert_eq!((status.code(), begun.elapsed()), (Code::Aborted, Duration::from_secs(9)), "{status}");
                let told = status.message().strip_prefix("volume `c` is being filled: copied ").unwrap();
                assert!(told.ends_with("; the copy goes on, call again"), "{told}");
                far.push(told.split(' ').next().unwrap().parse().unwrap());
                all += told;
            }
        }
        assert!(far.len() < 20, "{far:?}");
    };
    assert!(far.len() > 2 && far.is_sorted_by(|a, b| a < b), "{far:?}");
    assert!(all.contains(" of 1001 entries, ") && all.contains("s left; "), "{all}");
    assert_eq!(made.content_source, of_volume(&v));
    assert_eq!(lab.server("a").tree().get("c/999").unwrap().text(), "content");
}
