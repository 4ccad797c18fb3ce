//! Names in directories.

use super::*;

pub(super) async fn a_name_is_bytes<F: Fs>(fs: &F, dir: &F::Handle) {
    let longest = [b'n'; 255];
    let texts: [&[u8]; 12] = [
        b"plain",
        b" ",
        b"-rf",
        b"...",
        b"a\nb",
        b"a\\b",
        b"%2e%2e",
        b"\xff\xfe",
        b"\xc3\xa9",
        b"e\xcc\x81",
        b"A",
        &longest,
    ];
    for text in texts {
        fs.mkdir(dir, &name(text), 0o755).await.unwrap_or_else(|status| panic!("{:?}: {status}", name(text)));
    }
    let mut listed: Vec<_> = list(fs, dir).await.into_iter().map(|entry| entry.name).collect();
    let mut expected: Vec<_> = texts.iter().map(name).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    for text in texts {
        fs.rename(dir, &name(text), dir, &name("other")).await.unwrap();
        fs.rmdir(dir, &name("other")).await.unwrap();
    }
    assert_eq!(list(fs, dir).await, []);
}

pub(super) async fn a_name_is_taken_once<F: Fs>(fs: &F, dir: &F::Handle) {
    mkdir(fs, dir, "d").await;
    file(fs, dir, "f", "content").await;
    for taken in ["d", "f"] {
        assert_eq!(answer(fs.mkdir(dir, &name(taken), 0o700).await), Err(Status::Exist), "{taken}");
        assert_eq!(answer(fs.create(dir, &name(taken), 0o600).await), Err(Status::Exist), "{taken}");
    }
    let (_, d) = fs.lookup(dir, &name("d")).await.unwrap();
    let (_, f) = fs.lookup(dir, &name("f")).await.unwrap();
    assert_eq!((d.kind, d.mode, f.kind, f.mode, f.size), (Kind::Directory, 0o755, Kind::File, 0o644, 7));
    assert_ne!(d.fileid, f.fileid);
}

pub(super) async fn a_name_that_is_not_there_is_not_found<F: Fs>(fs: &F, dir: &F::Handle) {
    let nothing = name("nothing");
    let answers = [
        answer(fs.lookup(dir, &nothing).await),
        answer(fs.open(dir, &nothing, crate::export::fs::OpenMode::Read).await),
        answer(fs.open(dir, &nothing, crate::export::fs::OpenMode::ReadWrite).await),
        fs.rename(dir, &nothing, dir, &name("other")).await,
        fs.rename(dir, &nothing, dir, &nothing).await,
        fs.unlink(dir, &nothing).await,
        fs.rmdir(dir, &nothing).await,
    ];
    assert_eq!(answers, [Err(Status::NoEnt); 7]);
    assert_eq!(list(fs, dir).await, []);
}

pub(super) async fn only_a_directory_has_names_in_it<F: Fs>(fs: &F, dir: &F::Handle) {
    file(fs, dir, "f", "").await;
    let (f, _) = fs.lookup(dir, &name("f")).await.unwrap();
    let inner = name("inner");
    let answers = [
        answer(fs.lookup(&f, &inner).await),
        answer(fs.mkdir(&f, &inner, 0o755).await),
        answer(fs.create(&f, &inner, 0o644).await),
        answer(fs.open(&f, &inner, crate::export::fs::OpenMode::Read).await),
        fs.rename(&f, &inner, dir, &inner).await,
        fs.rename(dir, &name("f"), &f, &inner).await,
        fs.unlink(&f, &inner).await,
        fs.rmdir(&f, &inner).await,
        answer(fs.readdir(&f, 0).await),
        answer(fs.statfs(&f).await),
    ];
    assert_eq!(answers, [Err(Status::NotDir); 10]);
    assert_eq!(names(fs, dir).await, ["f"]);
}
