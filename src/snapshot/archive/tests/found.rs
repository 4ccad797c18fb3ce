//! Which directories are snapshots, and which are not.

use super::*;
use crate::export::fs::Status;
use crate::volume::access::CapacityRange;
use crate::volume::create::{Create, create};
use crate::volume::lock::lock;
use crate::volume::parameters::Attributes;
use crate::volume::quota;

async fn listed(export: &Export<MemoryFs>) -> Vec<String> {
    let mut listed = Vec::new();
    for name in names(export).await.unwrap() {
        listed.extend(find_in(export, &name).await.unwrap().map(|found| found.id.to_string()));
    }
    listed
}

/// Creates a volume in that directory.
async fn volume(export: &Export<MemoryFs>, name: &str, sub_dir: Option<&str>) {
    let create_ = Create {
        name: VolumeName::parse("", name).unwrap(),
        sub_dir: sub_dir.map(|sub_dir| SubDir::parse("", sub_dir).unwrap()),
        capacity: CapacityRange::new(1000, 0).unwrap(),
        asked: Attributes::default(),
        defaults: Attributes::default(),
        mount_options: Vec::new(),
        origin: None,
        kubernetes: None,
    };
    let lock = lock(export, &create_.id(export).unwrap()).await.unwrap();
    create(export, &create_, quota::patience(), &lock).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_is_recognized_by_its_names_and_never_in_a_volume() {
    let server = MemoryServer::new();
    let export = connect(&server);
    let plant = |path: &str| server.plant(path, Node::file(0o644, "archive")).unwrap();
    for path in ["s1/v.tar.gz", "s2/v.tar", "s3/v.zip", "two/a.tar", "two/b.tar", "deep/s/v.tar", "archived-s/v.tar"] {
        plant(path);
    }
    server.plant("s4/v.tar", Node::symlink("../s2/v.tar")).unwrap();
    server.plant("s5", Node::symlink("s2")).unwrap();
    server.plant("s6/v.tar", Node::directory(0o755)).unwrap();
    server.plant("s7", Node::directory(0o755)).unwrap();
    plant("v.tar");
    volume(&export, "own", None).await;
    volume(&export, "other", Some("given")).await;
    volume(&export, "inner", Some("team/inner")).await;
    for path in ["own/x.tar.gz", "given/x.tar.gz"] {
        plant(path);
    }
    assert_eq!(listed(&export).await, ["nfs#export#s1#s1#v", "nfs#export#s2#s2#v"]);
    for other in ["s3#s3#v", "s4#s4#v", "s5#s5#v", "s6#s6#v", "own#own#x", "given#given#x", "s1#s1#w", "none#none#v"] {
        assert_eq!(find(&export, &id(&format!("nfs#export#{other}"))).await.unwrap(), None, "{other}");
    }
    // By its identifier, a snapshot is found even if its directory has other content.
    assert!(find(&export, &id("nfs#export#two#two#b")).await.unwrap().is_some());
}

#[tokio::test]
async fn the_source_of_an_archive_is_the_volume_of_that_name() {
    let server = MemoryServer::new();
    let export = connect(&server);
    server.plant("s/v.tar.gz", Node::file(0o644, "archive")).unwrap();
    let found = get(&export, &snapshot()).await.unwrap();
    assert_eq!(found.size, 7);
    assert_eq!(found.source(&export).await.unwrap(), "nfs#export#v##");
    volume(&export, "v", Some("team/data")).await;
    assert_eq!(found.source(&export).await.unwrap(), "nfs#export#team/data#v#");
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_does_not_hide_the_others() {
    let server = MemoryServer::new();
    let export = connect(&server);
    server.plant("secret", Node::directory(0o700)).unwrap();
    server.plant("s/v.tar.gz", Node::file(0o644, "archive")).unwrap();
    server.set_root_squash(true);
    assert_eq!(listed(&export).await, ["nfs#export#s#s#v"]);
    let name = VolumeName::parse("", "s").unwrap();
    for status in [Status::TimedOut, Status::Stuck] {
        export.fs().fail_at(export.fs().operations(), status);
        assert!(find_in(&export, &name).await.is_err(), "a server that does not answer is an error, not an empty list");
    }
}

#[tokio::test]
async fn deleting_removes_the_snapshot_and_nothing_else() {
    let server = MemoryServer::new();
    let export = connect(&server);
    let plant = |path: &str| server.plant(path, Node::file(0o644, "archive")).unwrap();
    plant("s/v.tar.gz");
    plant("two/v.tar");
    plant("two/kept");
    volume(&export, "own", None).await;
    volume(&export, "inner", Some("team/inner")).await;
    for path in ["own/x.tar", "team/x.tar", "other/y.tar"] {
        plant(path);
    }
    server.plant("link", Node::symlink("other")).unwrap();
    for gone in ["s#s#v", "two#two#v", "own#own#x", "team#team#x", "other#other#x", "link#link#y", "none#none#v"] {
        for _ in 0..2 {
            delete(&export, &id(&format!("nfs#export#{gone}"))).await.unwrap();
        }
    }
    crate::testing::crash_harness::settle(&export).await;
    let mut left = outside(&server);
    left.0.retain(|_, node| node.kind != Kind::Directory);
    assert_eq!(left.paths(), ["link", "other/y.tar", "own/x.tar", "team/x.tar", "two/kept"]);
    assert!(!server.tree().has("s"));
}

#[tokio::test]
async fn a_link_that_replaces_an_archive_is_not_followed() {
    let server = MemoryServer::new();
    server.plant("s/v.tar", Node::file(0o644, archive(&[file("a", "x")]))).unwrap();
    let export = connect(&server);
    let unpacker = Archive::new(export.clone(), get(&export, &snapshot()).await.unwrap(), CAPACITY_LIMIT);
    let fs = export.fs();
    let name = |text: &str| Name::new(text).unwrap();
    let (dir, _) = fs.lookup(&fs.root(), &name("s")).await.unwrap();
    fs.rename(&dir, &name("v.tar"), &fs.root(), &name("moved")).await.unwrap();
    let open = async || unpacker.open().await.map(drop).unwrap_err();
    assert!(matches!(open().await, Error::NotFound { .. }));
    fs.symlink(&dir, &name("v.tar"), b"../moved").await.unwrap();
    assert!(matches!(open().await, Error::Export { status: Status::Symlink, .. }));
    fs.unlink(&dir, &name("v.tar")).await.unwrap();
    server.plant("s/v.tar", Node::file(0o644, "another")).unwrap();
    assert!(matches!(open().await, Error::NotFound { .. }));
}
