//! Content of files.

use super::*;
use crate::export::fs::{LockMode, OpenMode};

pub(super) async fn what_was_written_is_read<F: Fs>(fs: &F, dir: &F::Handle) {
    // The content is longer than a page and than the largest READ and WRITE on the wire, and a multiple of neither.
    let content: Vec<u8> = (0..3_333_333_u32).map(|n| (n % 251) as u8).collect();
    let (file, _) = fs.create(dir, &name("f"), 0o644).await.unwrap();
    fs.write(&file, 0, content.clone()).await.unwrap();
    fs.commit(&file).await.unwrap();
    let attr = fs.getattr(&file).await.unwrap();
    assert_eq!(attr.size, content.len() as u64);
    assert!(attr.used > 0, "content uses space");
    assert!(fs.read(&file, 0, content.len()).await.unwrap() == content, "all");
    assert!(fs.read(&file, 0, usize::MAX).await.unwrap() == content, "reading stops at the end");
    assert_eq!(fs.read(&file, 1_000_001, 5).await.unwrap(), &content[1_000_001..1_000_006]);
    assert_eq!(fs.read(&file, 3_333_330, 100).await.unwrap(), &content[3_333_330..]);
    assert_eq!(fs.read(&file, 3_333_333, 100).await.unwrap(), b"");
    assert_eq!(fs.read(&file, 1 << 40, 100).await.unwrap(), b"");
    fs.write(&file, 1_000_002, b"new".to_vec()).await.unwrap();
    fs.write(&file, 0, Vec::new()).await.unwrap();
    let expected = [&content[1_000_001..1_000_002], b"new", &content[1_000_005..1_000_006]].concat();
    assert_eq!(fs.read(&file, 1_000_001, 5).await.unwrap(), expected);
    assert_eq!(fs.getattr(&file).await.unwrap().size, content.len() as u64);
}

pub(super) async fn a_hole_reads_as_zeros<F: Fs>(fs: &F, dir: &F::Handle) {
    let (file, _) = fs.create(dir, &name("f"), 0o644).await.unwrap();
    fs.write(&file, 100_000, b"end".to_vec()).await.unwrap();
    assert_eq!(fs.getattr(&file).await.unwrap().size, 100_003);
    assert_eq!(fs.read(&file, 99_998, 10).await.unwrap(), b"\0\0end");
    assert_eq!(fs.read(&file, 0, 3).await.unwrap(), [0; 3]);
}

pub(super) async fn a_second_opening_sees_what_the_first_wrote<F: Fs>(fs: &F, dir: &F::Handle) {
    let (first, _) = fs.create(dir, &name("f"), 0o600).await.unwrap();
    fs.write(&first, 0, b"one".to_vec()).await.unwrap();
    let (second, attr) = fs.open(dir, &name("f"), OpenMode::Read).await.unwrap();
    assert_eq!((attr.kind, attr.size, attr.mode), (Kind::File, 3, 0o600));
    fs.write(&first, 3, b"two".to_vec()).await.unwrap();
    assert_eq!(fs.read(&second, 0, 100).await.unwrap(), b"onetwo");
    let again = second.clone();
    drop(second);
    fs.rename(dir, &name("f"), dir, &name("g")).await.unwrap();
    assert_eq!(fs.read(&again, 3, 100).await.unwrap(), b"two", "a rename does not affect an open file");
    fs.commit(&again).await.unwrap();
}

pub(super) async fn a_file_that_is_not_open_for_it_is_not_read_or_written<F: Fs>(fs: &F, dir: &F::Handle) {
    file(fs, dir, "f", "content").await;
    let (closed, _) = fs.lookup(dir, &name("f")).await.unwrap();
    let (read, _) = fs.open(dir, &name("f"), OpenMode::Read).await.unwrap();
    let answers = [
        answer(fs.read(&closed, 0, 1).await),
        answer(fs.read(dir, 0, 1).await),
        fs.write(&closed, 0, b"x".to_vec()).await,
        fs.write(&read, 0, b"x".to_vec()).await,
        fs.commit(&closed).await,
        answer(fs.try_lock(&closed, 0, LockMode::Exclusive).await),
        answer(fs.try_lock(&read, 0, LockMode::Exclusive).await),
        fs.unlock(&read, 0).await,
    ];
    assert_eq!(answers, [Err(Status::Inval); 8]);
    assert_eq!(fs.read(&read, 0, 100).await.unwrap(), b"content");
}

pub(super) async fn a_file_is_opened_or_made<F: Fs>(fs: &F, dir: &F::Handle) {
    let (made, new) = fs.open_or_create(dir, &name("f"), 0o640).await.unwrap();
    assert_eq!((new.kind, new.mode, new.size, new.links), (Kind::File, 0o640, 0, 1));
    fs.write(&made, 0, b"content".to_vec()).await.unwrap();
    fs.commit(&made).await.unwrap();
    drop(made);
    let (opened, attr) = fs.open_or_create(dir, &name("f"), 0o600).await.unwrap();
    assert_eq!((attr.fileid, attr.mode, attr.size), (new.fileid, 0o640, 7));
    fs.write(&opened, 3, b"T".to_vec()).await.unwrap();
    assert_eq!(fs.read(&opened, 0, 100).await.unwrap(), b"conTent");
}

pub(super) async fn what_is_no_file_is_not_opened<F: Fs>(fs: &F, dir: &F::Handle) {
    mkdir(fs, dir, "d").await;
    assert_eq!(answer(fs.open_or_create(dir, &name("d"), 0o600).await), Err(Status::IsDir));
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        assert_eq!(answer(fs.open(dir, &name("d"), mode).await), Err(Status::IsDir), "{mode:?}");
    }
}
