use super::*;
use crate::export::fs::SetAttr;
use crate::testing::crash_harness::reach;
use crate::testing::log::Log;
use crate::testing::memory::{MemoryServer, Node};

const NOBODY: u32 = 65534;

async fn discarded(server: &MemoryServer) {
    let export = reach(server);
    export.make_layout().await.unwrap();
    assert!(discard(&export, &export.fs().root(), &Name::new("v").unwrap()).await.unwrap());
    assert_eq!(clear(&export).await.unwrap(), 0);
    assert!(server.tree().below(".csi-nfs/trash").paths().is_empty(), "{:?}", server.tree().paths());
}

#[tokio::test]
async fn a_tree_that_keeps_its_owner_out_is_removed_where_root_is_squashed() {
    let server = MemoryServer::new();
    let fs = server.client();
    let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    fs.setattr(&fs.root(), open).await.unwrap();
    let mut path = "v".to_owned();
    // Deeper than the trash walks at once: what is below goes to the trash itself.
    for level in 0..2 * DEPTH {
        server.plant(&path, Node::directory([0o555, 0o000, 0o311][level % 3]).owned_by(NOBODY, NOBODY)).unwrap();
        server.plant(format!("{path}/file"), Node::file(0o444, "go").owned_by(NOBODY, NOBODY)).unwrap();
        path += "/d";
    }
    server.set_root_squash(true);
    discarded(&server).await;
}

#[tokio::test]
async fn a_directory_whose_first_pages_are_empty_is_removed() {
    let server = MemoryServer::new();
    server.plant("v", Node::directory(0o755)).unwrap();
    (0..99).for_each(|number| server.plant(format!("v/{number}"), Node::file(0o600, "")).unwrap());
    (0..98).for_each(|number| server.remove(format!("v/{number}")).unwrap());
    discarded(&server).await;
}

#[tokio::test]
async fn the_work_for_a_directory_is_the_same_however_many_are_beside_it() {
    let work = async |directories: u64| {
        let server = MemoryServer::new();
        server.plant("v", Node::directory(0o755)).unwrap();
        for number in 0..directories {
            server.plant(format!("v/{number}"), Node::directory(0o755)).unwrap();
            server.plant(format!("v/{number}/file"), Node::file(0o600, "")).unwrap();
        }
        let export = reach(&server);
        export.make_layout().await.unwrap();
        assert!(discard(&export, &export.fs().root(), &Name::new("v").unwrap()).await.unwrap());
        let before = export.fs().operations();
        assert_eq!(clear(&export).await.unwrap(), 0);
        (export.fs().operations() - before) / directories
    };
    let (few, many) = (work(10).await, work(1000).await);
    // Each listing begins with the names that are gone.
    assert!(many <= 2 * few, "{many} operations for each of many directories, {few} for each of few");
}

#[tokio::test(start_paused = true)]
async fn a_clearing_that_takes_long_says_how_far_it_is() {
    let (log, _logging) = Log::captured();
    let server = MemoryServer::new();
    server.plant("v/sub", Node::directory(0o755)).unwrap();
    (0..999).for_each(|number| server.plant(format!("v/sub/{number}"), Node::file(0o600, "")).unwrap());
    let export = reach(&server);
    assert!(discard(&export, &export.fs().root(), &Name::new("v").unwrap()).await.unwrap());
    assert_eq!(export.trash.clearing(), None);
    export.fs().delay(Duration::from_millis(400));
    let look = async {
        tokio::time::sleep(TELL).await;
        let early = export.trash.clearing().unwrap().done.entries;
        tokio::time::sleep(TELL).await;
        (early, export.trash.clearing().unwrap().done.entries)
    };
    let (cleared, (early, late)) = tokio::join!(clear(&export), look);
    assert_eq!(cleared, Ok(0));
    assert!(0 < early && early < late && late < 1001, "{early} {late}");
    assert_eq!(export.trash.clearing(), None);
    let text = log.text();
    let told = text.lines().find(|line| line.contains("clearing the trash")).unwrap();
    assert!(told.contains("left=1") && told.contains("entries in 30s"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_into_the_trash_after_its_caller_has_gone_is_removed() {
    let (server, name) = (MemoryServer::new(), Name::new("v").unwrap());
    server.plant("v", Node::directory(0o755)).unwrap();
    let (export, late) = (reach(&server), server.client());
    let layout = export.make_layout().await.unwrap();
    export.fs().fail_at(export.fs().operations(), Status::TimedOut);
    assert!(discard(&export, &export.fs().root(), &name).await.is_err());
    let export = Arc::new(export);
    let _clearing = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(keep_clear(export.clone())));
    tokio::time::sleep(Duration::from_secs(20)).await;
    late.rename(&late.root(), &name, &layout.trash, &name).await.unwrap();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(server.tree().below(".csi-nfs/trash").paths().is_empty(), "{:?}", server.tree().paths());
}

#[tokio::test]
async fn the_entries_that_wait_in_the_trash_are_counted() {
    let server = MemoryServer::new();
    let export = reach(&server);
    for (name, waiting) in [("v", 1), ("w", 2)] {
        server.plant(name, Node::directory(0o755)).unwrap();
        assert!(discard(&export, &export.fs().root(), &Name::new(name).unwrap()).await.unwrap());
        assert_eq!(export.trash.waiting(), waiting);
    }
    clear(&export).await.unwrap();
    assert_eq!(export.trash.waiting(), 0);
}
