//! Copies that fail, or are cancelled.

use std::time::Duration;

use super::*;
use crate::export::fs::{Kind, SetAttr};
use crate::testing::memory::MemoryServer;

/// A small tree in which every operation of a copy comes up.
async fn everything<F: Fs>(fs: &F, dir: &F::Handle) {
    let (inner, _) = fs.mkdir(dir, &name("directory"), 0o750).await.unwrap();
    fs.setattr(&inner, SetAttr { mode: Some(0o2750), ..SetAttr::default() }).await.unwrap();
    let (file, _) = fs.create(&inner, &name("file"), 0o640).await.unwrap();
    fs.write(&file, 0, vec![1; 5000]).await.unwrap();
    fs.setattr(&file, SetAttr { size: Some(200_000), uid: Some(7), ..SetAttr::default() }).await.unwrap();
    fs.set_xattr(&file, b"user.note", b"value").await.unwrap();
    fs.commit(&file).await.unwrap();
    fs.link(&file, dir, &name("linked")).await.unwrap();
    fs.link(&file, dir, &name("linked too")).await.unwrap();
    fs.create(&inner, &name("empty"), 0o600).await.unwrap();
    fs.write_file(&inner, &name("small"), 0o600, vec![2; 3000]).await.unwrap();
    fs.symlink(&inner, &name("link"), b"file").await.unwrap();
    fs.mknod(&inner, &name("fifo"), Kind::Fifo, 0o600, (0, 0)).await.unwrap();
    fs.set_xattr(&inner, b"user.note", b"value").await.unwrap();
    fs.mkdir(&inner, &name("hollow"), 0o700).await.unwrap();
}

/// A server with the tree in `from`.
async fn planted(clone: bool) -> MemoryServer {
    let server = MemoryServer::new();
    server.set_clone_supported(clone);
    let fs = server.client();
    let (from, _) = two(&fs).await;
    everything(&fs, &from).await;
    server
}

async fn copy_on(fs: &crate::testing::memory::MemoryFs) -> Result<Totals, CopyError> {
    let look = async |text| fs.lookup(&fs.root(), &name(text)).await.unwrap().0;
    copy(fs, &look("from").await, fs, &look("to").await).await
}

#[tokio::test]
async fn a_failure_of_any_operation_is_an_error_with_a_path_or_makes_no_difference() {
    for clone in [true, false] {
        let whole = planted(clone).await.client();
        copy_on(&whole).await.unwrap();
        let history = whole.history();
        for status in [Status::Io, Status::Access, Status::NoSpc, Status::NotSupp, Status::Inval] {
            // The first two operations are the test's own.
            for (n, operation) in history.iter().enumerate().skip(2) {
                let server = planted(clone).await;
                let fs = server.client();
                fs.fail_at(n as u64, status);
                match copy_on(&fs).await {
                    Ok(_) => {
                        let judge = server.client();
                        let look = async |text| judge.lookup(&judge.root(), &name(text)).await.unwrap().0;
                        let (from, to) = (look("from").await, look("to").await);
                        // A server may lack extended attributes, SEEK and CLONE.
                        if status != Status::NotSupp {
                            assert_same_tree(&judge, &from, &judge, &to, EXACT).await;
                        } else {
                            assert_eq!(server.tree().below("from"), server.tree().below("to"), "{n}: {operation}");
                        }
                    }
                    Err(CopyError::Failed { path, status: said, .. }) => {
                        assert!(!path.is_empty(), "{n}: {operation}");
                        assert_eq!(said, status, "{n}: {operation}: {path}");
                    }
                    Err(CopyError::Cancelled) => panic!("{n}: {operation}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_lost_answer_ends_the_copy() {
    let whole = planted(true).await.client();
    copy_on(&whole).await.unwrap();
    for n in 2..whole.operations() {
        let fs = planted(true).await.client();
        fs.lose_answer_at(n);
        match copy_on(&fs).await {
            // This operation only saves work: it finds out whether a new object has the same list anyway.
            Ok(_) => assert!(whole.history()[n as usize].starts_with("get_xattr"), "{}", whole.history()[n as usize]),
            Err(error) => assert!(matches!(error, CopyError::Failed { status: Status::TimedOut, .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn data_that_does_not_become_stable_is_an_error() {
    let whole = planted(false).await.client();
    copy_on(&whole).await.unwrap();
    let commit = whole.history().iter().position(|operation| operation.starts_with("commit")).unwrap();
    let fs = planted(false).await.client();
    fs.fail_at(commit as u64, Status::DQuot);
    let error = copy_on(&fs).await.unwrap_err();
    assert!(error.to_string().starts_with("committing `"), "{error}");
    assert!(error.to_string().ends_with("` in the copy: quota exceeded"), "{error}");
}

#[tokio::test]
async fn what_was_copied_is_still_there_after_a_loss_of_power() {
    for clone in [true, false] {
        let server = planted(clone).await;
        copy_on(&server.client()).await.unwrap();
        server.power_loss(false);
        assert_eq!(server.tree().below("from"), server.tree().below("to"));
    }
}

#[tokio::test]
async fn a_directory_that_is_not_empty_is_not_copied_into() {
    let server = planted(true).await;
    server.plant("to/something", crate::testing::memory::Node::file(0o600, "")).unwrap();
    let error = copy_on(&server.client()).await.unwrap_err();
    assert_eq!(error.to_string(), "opening `.` in the copy: directory not empty");
}

#[tokio::test(start_paused = true)]
async fn a_copy_ends_soon_after_it_is_cancelled() {
    let server = planted(true).await;
    let fs = server.client();
    let look = async |text| fs.lookup(&fs.root(), &name(text)).await.unwrap().0;
    let (from, to) = (look("from").await, look("to").await);
    fs.delay(Duration::from_secs(60));
    let (progress, cancel) = (Progress::default(), CancellationToken::new());
    let how = Options::default();
    let start = tokio::time::Instant::now();
    let cancelled = async {
        tokio::time::sleep(Duration::from_secs(1000)).await;
        cancel.cancel();
    };
    let copy = copy_tree(&fs, &from, &fs, &to, &how, &progress, &cancel);
    let (copied, ()) = futures_util::future::join(copy, cancelled).await;
    assert_eq!(copied, Err(CopyError::Cancelled));
    assert!(start.elapsed() <= Duration::from_secs(1001), "{:?}", start.elapsed());
    assert!(progress.totals().entries > 0, "it was in the middle");
}

/// The server cannot clone. The number of COPY operations depends on how long the first one takes.
#[tokio::test(start_paused = true)]
async fn a_server_that_takes_long_to_copy_a_small_file_is_not_asked_again() {
    for (each, asked) in [(Duration::ZERO, 20), (Duration::from_secs(2), 1)] {
        let server = MemoryServer::new();
        server.set_clone_supported(false);
        let fs = server.client();
        let (from, to) = two(&fs).await;
        for number in 0..20 {
            fs.write_file(&from, &name(number.to_string()), 0o600, vec![3; 3000]).await.unwrap();
        }
        fs.delay(each);
        let (progress, cancel) = (Progress::default(), CancellationToken::new());
        copy_tree(&fs, &from, &fs, &to, &Options { in_flight: 1 }, &progress, &cancel).await.unwrap();
        let copies = fs.history().iter().filter(|operation| operation.starts_with("copy ")).count();
        assert_eq!(copies, asked, "{each:?}");
        assert_same_tree(&fs, &from, &fs, &to, EXACT).await;
    }
}
