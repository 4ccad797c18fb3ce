//! Snapshots of csi-driver-nfs, which are tar archives.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use tonic::{Request, Status};

use crate::snapshots::{content, fill, listed};
use crate::support::csi::volume_capability::access_mode::Mode;
use crate::support::lab::run;
use crate::support::requests::{self, MIB, from, of_snapshot};
use crate::support::{Code, Driver, Lab, Place, Share, checked, csi, wait};

fn id(share: &Share, name: &str) -> String {
    format!("{}#{}#{name}#{name}#v", share.server, share.share.trim_matches('/'))
}

/// Packs a directory as csi-driver-nfs does.
fn pack(share: &Share, name: &str, end: &str, source: &Path) {
    fs::create_dir(share.path.join(name)).unwrap();
    let archive = share.path.join(name).join(format!("v{end}"));
    let how = if end == ".tar.gz" { "-czf" } else { "-cf" };
    run("tar", ["-C", source.to_str().unwrap(), how, archive.to_str().unwrap(), "."]);
}

/// A volume of csi-driver-nfs with content: a directory without a record.
fn their_volume(share: &Share) -> std::path::PathBuf {
    let volume = share.path.join("v");
    fill(&volume);
    // The times are whole seconds, because tar keeps no fractions.
    run("find", [volume.to_str().unwrap(), "-exec", "touch", "-h", "-d", "@1700000000", "{}", "+"]);
    volume
}

async fn get(driver: &Driver, id: &str) -> Result<csi::Snapshot, Status> {
    let request = csi::GetSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
    Ok(driver.controller().get_snapshot(request).await?.into_inner().snapshot.unwrap())
}

#[tokio::test]
async fn an_archive_is_listed_restored_and_deleted_as_any_snapshot() {
    let lab = Lab::enter().await;
    let driver = Driver::start().await;
    for place in [Place::Xfs, Place::Tmpfs, Place::Ganesha] {
        let share = lab.share(place);
        let v = their_volume(&share);
        let whole = content(&v);
        pack(&share, "s1", ".tar.gz", &v);
        pack(&share, "s2", ".tar", &v);
        let (s1, s2) = (id(&share, "s1"), id(&share, "s2"));
        let volume_id = format!("{}#{}#v##", share.server, share.share.trim_matches('/'));

        let found = get(&driver, &s1).await.unwrap();
        let archive = fs::metadata(share.path.join("s1/v.tar.gz")).unwrap();
        assert!(found.ready_to_use && found.snapshot_id == s1 && found.source_volume_id == volume_id, "{found:?}");
        assert_eq!(found.size_bytes, archive.len().cast_signed());
        assert_eq!(found.creation_time.unwrap().seconds, archive.mtime());
        let of_volume = csi::ListSnapshotsRequest { source_volume_id: volume_id.clone(), ..Default::default() };
        assert_eq!(listed(&driver, of_volume).await, [s1.clone(), s2.clone()]);
        let by_id = csi::ListSnapshotsRequest { snapshot_id: s2.clone(), ..Default::default() };
        assert_eq!(listed(&driver, by_id.clone()).await, std::slice::from_ref(&s2));

        driver.delete(&volume_id).await.unwrap();
        let request = from(&share, "r1", of_snapshot(&s1));
        let restored = driver.create(request.clone()).await.unwrap();
        assert_eq!(driver.create(request).await.unwrap(), restored);
        assert_eq!(restored.content_source.unwrap().r#type, Some(of_snapshot(&s1)));
        // The snapshot has no tree, so it cannot be mounted as a snapshot-backed volume.
        let mut reading = from(&share, "r2", of_snapshot(&s2));
        reading.volume_capabilities = vec![requests::mounted(Mode::MultiNodeReaderOnly, &[])];
        driver.create(reading).await.unwrap();
        let mut any_size = from(&share, "r3", of_snapshot(&s1));
        any_size.capacity_range = None;
        driver.create(any_size).await.unwrap();
        for name in ["r1", "r2", "r3"] {
            assert_eq!(content(&share.path.join(name)), whole, "{place:?} {name}");
        }
        checked::at_rest(&share).await;

        for id in [&s1, &s2, &s1, &s2] {
            driver.drop_snapshot(id).await.unwrap();
        }
        assert_eq!(get(&driver, &s1).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(listed(&driver, by_id).await, Vec::<String>::new());
        checked::at_rest(&share).await;
        assert_eq!(share.names(), ["r1", "r2", "r3"]);
        assert!(share.left_in("snapshots").is_empty());
    }
}

#[tokio::test]
async fn archives_and_trees_are_listed_in_pages_together_and_volumes_are_no_snapshots() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::start().await;
    let own = driver.create(requests::create(&share, "own")).await.unwrap();
    let inner = share.path.join("own");
    fs::write(inner.join("backup.tar.gz"), b"a tenant's").unwrap();
    pack(&share, "a", ".tar.gz", &inner);
    pack(&share, "c", ".tar", &inner);
    let b = driver.take(requests::snapshot(&own.volume_id, "b")).await.unwrap().snapshot_id;
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = csi::ListSnapshotsRequest { max_entries: 1, starting_token: token, ..Default::default() };
        let page = driver.controller().list_snapshots(request).await.unwrap().into_inner();
        seen.extend(page.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id));
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [b, id(&share, "a"), id(&share, "c")]);
    let tenants = format!("{}#{}#own#own#backup", share.server, share.share.trim_matches('/'));
    driver.drop_snapshot(&tenants).await.unwrap();
    assert_eq!(fs::read(inner.join("backup.tar.gz")).unwrap(), b"a tenant's");
}

#[tokio::test]
async fn what_leads_out_of_a_volume_or_does_not_fit_is_refused_and_leaves_nothing() {
    let lab = Lab::enter().await;
    let (share, elsewhere) = (lab.share(Place::Xfs), lab.share(Place::Tmpfs));
    let driver = Driver::start().await;
    let work = &elsewhere.path;
    fs::create_dir_all(work.join("one")).unwrap();
    fs::create_dir_all(work.join("two/up")).unwrap();
    symlink("../../../outside", work.join("one/up")).unwrap();
    fs::write(work.join("two/up/evil"), b"x").unwrap();
    let at = |path: &str| work.join(path).to_str().unwrap().to_owned();
    let outside = share.path.join("outside");
    fs::create_dir(&outside).unwrap();
    let archive = |name: &str| {
        fs::create_dir(share.path.join(name)).unwrap();
        share.path.join(name).join("v.tar").to_str().unwrap().to_owned()
    };

    let link = archive("link");
    run("tar", ["-C", &at("one"), "-cf", &link, "up"]);
    run("tar", ["-C", &at("two"), "-rf", &link, "up/evil"]);
    let upwards = archive("upwards");
    run("tar", ["-C", &at("two"), "-P", "--transform=s,^,../../../outside/,", "-cf", &upwards, "up/evil"]);
    let absolute = archive("absolute");
    run("tar", ["-P", "-cf", &absolute, &at("two/up/evil")]);
    fs::write(work.join("one/zeros"), vec![0; 2 << 20]).unwrap();
    pack(&share, "bomb", ".tar.gz", &work.join("one"));
    pack(&share, "cut", ".tar.gz", &work.join("two"));
    let cut = fs::File::options().write(true).open(share.path.join("cut/v.tar.gz")).unwrap();
    cut.set_len(cut.metadata().unwrap().len() / 2).unwrap();
    pack(&share, "large", ".tar", &work.join("one"));
    fs::create_dir(share.path.join("linked")).unwrap();
    symlink("../upwards/v.tar", share.path.join("linked/v.tar")).unwrap();

    let seen = || share.names().into_iter().map(|name| (content(&share.path.join(&name)), name)).collect::<Vec<_>>();
    let before = seen();
    let expected = [
        ("link", Code::FailedPrecondition, "leads through `up`"),
        ("upwards", Code::FailedPrecondition, "leads upwards"),
        ("absolute", Code::FailedPrecondition, "is absolute"),
        ("cut", Code::FailedPrecondition, "`cut/v.tar.gz`"),
        ("bomb", Code::OutOfRange, "holds more than"),
        ("large", Code::OutOfRange, "request at least that much"),
        ("linked", Code::NotFound, "has no archive"),
        ("none", Code::NotFound, "has no archive"),
    ];
    for (name, code, why) in expected {
        let refused = driver.create(from(&share, "r", of_snapshot(&id(&share, name)))).await.unwrap_err();
        assert!(refused.code() == code && refused.message().contains(why), "{name}: {refused}");
    }
    assert!(share.left_in("staging").is_empty() && share.left_in("volumes").is_empty());
    assert_eq!(seen(), before);
    driver.drop_snapshot(&id(&share, "linked")).await.unwrap();
    driver.drop_snapshot(&id(&share, "bomb")).await.unwrap();
    assert!(share.path.join("linked/v.tar").is_symlink() && share.path.join("upwards/v.tar").is_file());
    assert!(!share.path.join("bomb").exists());
}

#[tokio::test]
async fn an_archive_is_restored_across_servers_and_by_the_retry_of_a_call_that_was_cut_short() {
    let lab = Lab::enter().await;
    let (share, other) = (lab.share(Place::Xfs), lab.share(Place::Tmpfs));
    let mut driver = Driver::start().await;
    let v = share.path.join("v");
    for dir in 0..20 {
        fs::create_dir_all(v.join(dir.to_string())).unwrap();
        for file in 0..50 {
            fs::write(v.join(format!("{dir}/{file}")), [7; 4096]).unwrap();
        }
    }
    run("find", [v.to_str().unwrap(), "-exec", "touch", "-d", "@1700000000", "{}", "+"]);
    pack(&share, "s", ".tar.gz", &v);
    let whole = content(&v);
    let snapshot = id(&share, "s");
    let request = |share: &Share, name: &str| csi::CreateVolumeRequest {
        capacity_range: requests::bytes(8 * MIB),
        ..from(share, name, of_snapshot(&snapshot))
    };
    let mut hurried = Request::new(request(&share, "r"));
    hurried.set_timeout(Duration::from_millis(20));
    driver.controller().create_volume(hurried).await.unwrap_err();
    driver.create(request(&share, "r")).await.unwrap();
    assert_eq!(driver.log().matches("copy finished").count(), 1, "{}", driver.log());

    let (mut controller, again) = (driver.controller(), request(&other, "r"));
    let call = tokio::spawn(async move { controller.create_volume(again).await });
    wait::until("the volume in staging", Duration::from_secs(20), || {
        let staged = fs::read_dir(other.path.join(".csi-nfs/staging")).ok()?;
        (staged.count() > 0).then_some(())
    })
    .await;
    driver.kill();
    call.await.unwrap().unwrap_err();
    assert!(!other.path.join("r").exists());
    driver.start_again().await;
    driver.create(request(&other, "r")).await.unwrap();
    for share in [&share, &other] {
        assert_eq!(content(&share.path.join("r")), whole);
    }
    checked::at_rest(&other).await;
}
