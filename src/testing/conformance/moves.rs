//! RENAME and REMOVE.

use super::*;
use crate::export::fs::{OpenMode, Step};

pub(super) async fn a_rename_replaces_like_by_like_alone<F: Fs>(fs: &F, dir: &F::Handle) {
    const DONE: FsResult<()> = Ok(());
    let cases = [
        ("file", "file", DONE),
        ("file", "empty", Err(Status::IsDir)),
        ("file", "full", Err(Status::IsDir)),
        ("empty", "file", Err(Status::NotDir)),
        ("empty", "empty", DONE),
        ("empty", "full", Err(Status::NotEmpty)),
        ("full", "file", Err(Status::NotDir)),
        ("full", "empty", DONE),
        ("full", "full", Err(Status::NotEmpty)),
        ("file", "", DONE),
        ("empty", "", DONE),
        ("full", "", DONE),
    ];
    for (number, (from, to, expected)) in cases.into_iter().enumerate() {
        for across in [false, true] {
            let place = mkdir(fs, dir, &format!("case-{number}-{across}")).await;
            let other = if across { mkdir(fs, &place, "other").await } else { place.clone() };
            for (at, text, what) in [(&place, "from", from), (&other, "to", to)] {
                match what {
                    "file" => file(fs, at, text, text).await,
                    "empty" => drop(mkdir(fs, at, text).await),
                    "full" => drop(mkdir(fs, &mkdir(fs, at, text).await, "inner").await),
                    _ => {}
                }
            }
            let (_, moving) = fs.lookup(&place, &name("from")).await.unwrap();
            let before = (list(fs, &place).await, list(fs, &other).await);
            assert_eq!(fs.rename(&place, &name("from"), &other, &name("to")).await, expected, "{from} over {to}");
            if expected.is_ok() {
                assert_eq!(answer(fs.lookup(&place, &name("from")).await), Err(Status::NoEnt));
                let (_, moved) = fs.lookup(&other, &name("to")).await.unwrap();
                assert_eq!((moved.fileid, moved.kind), (moving.fileid, moving.kind), "{from} over {to}");
                assert_eq!(names(fs, &other).await, ["to"]);
            } else {
                assert_eq!((list(fs, &place).await, list(fs, &other).await), before, "{from} over {to}");
            }
        }
    }
    let place = mkdir(fs, dir, "itself").await;
    file(fs, &place, "f", "content").await;
    fs.rename(&place, &name("f"), &place, &name("f")).await.unwrap();
    let (same, _) = fs.open(&place, &name("f"), OpenMode::Read).await.unwrap();
    assert_eq!(fs.read(&same, 0, 100).await.unwrap(), b"content");
}

pub(super) async fn a_file_is_written_whole_and_takes_its_place<F: Fs>(fs: &F, dir: &F::Handle) {
    let (staging, place) = (mkdir(fs, dir, "staging").await, mkdir(fs, dir, "place").await);
    let (half, record) = (name("half"), name("record"));
    let replace = async |content: &[u8]| {
        let (staged, to) = ((staging.clone(), half.clone()), (place.clone(), record.clone()));
        fs.in_order(&[Step::Replace { staged, to, mode: 0o640, content: content.to_vec() }]).await.1
    };
    // The last one is longer than the largest WRITE on the wire.
    for content in [b"first".to_vec(), Vec::new(), vec![b'x'; 3_333_333]] {
        replace(&content).await.unwrap();
        assert!(fs.read_file(&place, &record, content.len()).await.unwrap() == content);
        let (_, attr) = fs.lookup(&place, &record).await.unwrap();
        assert_eq!((attr.mode, attr.size), (0o640, content.len() as u64));
        assert_eq!(names(fs, &staging).await, [""; 0]);
    }
    file(fs, &staging, "half", "of another call").await;
    assert_eq!(replace(b"new").await, Err(Status::Exist));
    assert_eq!(fs.read_file(&staging, &half, 100).await.unwrap(), b"of another call");
    fs.unlink(&staging, &half).await.unwrap();
    fs.unlink(&place, &record).await.unwrap();
    mkdir(fs, &place, "record").await;
    assert_eq!(replace(b"new").await, Err(Status::IsDir));
    fs.rmdir(&place, &record).await.unwrap();
    fs.unlink(&staging, &half).await.unwrap();
    becomes(Ok(()), async || fs.rmdir(dir, &name("place")).await).await;
    assert_eq!(replace(b"new").await, Err(Status::Stale));
}

pub(super) async fn steps_are_carried_out_in_order_up_to_the_first_that_fails<F: Fs>(fs: &F, dir: &F::Handle) {
    let at = |text: &str| (dir.clone(), name(text));
    let make = |text: &str| Step::Mkdir { at: at(text), mode: 0o750 };
    let write = |text: &str| Step::Replace {
        staged: at("half"),
        to: at(text),
        mode: 0o600,
        content: text.repeat(100).into_bytes(),
    };
    let (rename, remove) =
        (|from, to| Step::Rename { from: at(from), to: at(to) }, |text: &str| Step::Remove { at: at(text) });
    let whole = [make("d"), write("f"), rename("d", "e"), remove("gone"), remove("f"), make("d"), write("g")];
    assert_eq!(fs.in_order(&whole).await, (7, Ok(())));
    assert_eq!(names(fs, dir).await, ["d", "e", "g"]);
    assert_eq!(fs.lookup(dir, &name("d")).await.unwrap().1.mode, 0o750);
    assert_eq!(fs.read_file(dir, &name("g"), 1000).await.unwrap(), "g".repeat(100).into_bytes());
    file(fs, &fs.lookup(dir, &name("e")).await.unwrap().0, "inside", "").await;

    for (step, refused) in [
        (make("d"), Status::Exist),
        (write("d"), Status::IsDir),
        (rename("gone", "h"), Status::NoEnt),
        (rename("d", "e"), Status::NotEmpty),
        (remove("e"), Status::NotEmpty),
    ] {
        let case = format!("{step:?}");
        assert_eq!(fs.in_order(&[step.clone(), make("never")]).await, (0, Err(refused)), "{case}");
        fs.in_order(&[remove("half")]).await.1.unwrap();
        assert_eq!(fs.in_order(&[make("first"), step, make("never")]).await, (1, Err(refused)), "{case}");
        assert_eq!(fs.in_order(&[remove("half"), remove("first")]).await, (2, Ok(())), "{case}");
    }
    // More than a request has operations for, and content for which it is too short.
    let mut many: Vec<_> = (0..40).flat_map(|n| [make(&format!("m{n}")), write("g")]).collect();
    let long = vec![b'x'; 1_111_111];
    many.push(Step::Replace { staged: at("half"), to: at("long"), mode: 0o600, content: long.clone() });
    many.extend((0..40).map(|n| remove(&format!("m{n}"))));
    assert_eq!(fs.in_order(&many).await, (121, Ok(())));
    assert_eq!(names(fs, dir).await, ["d", "e", "g", "long"]);
    assert!(fs.read_file(dir, &name("long"), long.len()).await.unwrap() == long);
    assert_eq!(fs.in_order(&[]).await, (0, Ok(())));
}

pub(super) async fn a_directory_moves_with_all_that_is_in_it<F: Fs>(fs: &F, dir: &F::Handle) {
    let (from, to) = (mkdir(fs, dir, "from").await, mkdir(fs, dir, "to").await);
    let moving = mkdir(fs, &from, "d").await;
    let inner = mkdir(fs, &moving, "inner").await;
    file(fs, &inner, "f", "content").await;
    let before = fs.getattr(&moving).await.unwrap();
    fs.rename(&from, &name("d"), &to, &name("e")).await.unwrap();
    let after = fs.getattr(&moving).await.unwrap();
    assert_eq!((after.fileid, after.mtime), (before.fileid, before.mtime), "a handle is the object's, not the name's");
    file(fs, &moving, "g", "new").await;
    let (found, _) = fs.lookup(&to, &name("e")).await.unwrap();
    assert_eq!(names(fs, &found).await, ["g", "inner"]);
    let (f, _) = fs.open(&inner, &name("f"), OpenMode::Read).await.unwrap();
    assert_eq!(fs.read(&f, 0, 100).await.unwrap(), b"content");
    assert_eq!(names(fs, &from).await, [""; 0]);
}

pub(super) async fn a_directory_does_not_move_into_itself<F: Fs>(fs: &F, dir: &F::Handle) {
    let outer = mkdir(fs, dir, "outer").await;
    let middle = mkdir(fs, &outer, "middle").await;
    let inner = mkdir(fs, &middle, "inner").await;
    file(fs, &inner, "f", "").await;
    for below in [&outer, &middle, &inner] {
        assert_eq!(fs.rename(dir, &name("outer"), below, &name("new")).await, Err(Status::Inval));
        assert_eq!(fs.rename(dir, &name("outer"), below, &name("middle")).await, Err(Status::Inval));
    }
    for (from_dir, from) in [(&outer, "middle"), (&middle, "inner"), (&inner, "f")] {
        let onto_its_own_place = fs.rename(from_dir, &name(from), dir, &name("outer")).await;
        assert_eq!(onto_its_own_place, Err(Status::NotEmpty), "{from}");
    }
    assert_eq!(names(fs, &inner).await, ["f"]);
}

pub(super) async fn only_an_empty_directory_is_removed<F: Fs>(fs: &F, dir: &F::Handle) {
    let full = mkdir(fs, dir, "full").await;
    mkdir(fs, &full, "empty").await;
    file(fs, &full, "f", "").await;
    assert_eq!(fs.rmdir(dir, &name("full")).await, Err(Status::NotEmpty));
    assert_eq!(fs.rmdir(&full, &name("f")).await, Err(Status::NotDir));
    assert_eq!(fs.unlink(&full, &name("empty")).await, Err(Status::IsDir));
    assert_eq!(fs.unlink(dir, &name("full")).await, Err(Status::IsDir));
    assert_eq!(names(fs, &full).await, ["empty", "f"]);
    fs.rmdir(&full, &name("empty")).await.unwrap();
    fs.unlink(&full, &name("f")).await.unwrap();
    becomes(Ok(()), async || fs.rmdir(dir, &name("full")).await).await;
    assert_eq!(list(fs, dir).await, []);
}

pub(super) async fn names_are_removed_up_to_a_directory_with_entries<F: Fs>(fs: &F, dir: &F::Handle) {
    let all: Vec<Name> = (0..150).map(|number| name(format!("n{number:03}"))).collect();
    for (number, text) in all.iter().enumerate() {
        match number % 50 {
            7 => {}
            9 => drop(fs.mkdir(dir, text, 0o755).await.unwrap()),
            11 => drop(fs.symlink(dir, text, b"target").await.unwrap()),
            _ => fs.write_file(dir, text, 0o600, b"content".to_vec()).await.unwrap(),
        }
    }
    let (full, _) = fs.lookup(dir, &all[59]).await.unwrap();
    file(fs, &full, "inside", "").await;
    assert_eq!(fs.remove(dir, &all).await, (59, Err(Status::NotEmpty)));
    assert_eq!(names(fs, dir).await.len(), 150 - 59 - 1);
    fs.unlink(&full, &name("inside")).await.unwrap();
    becomes((150, Ok(())), async || fs.remove(dir, &all).await).await;
    assert_eq!(list(fs, dir).await, []);
    assert_eq!(fs.remove(dir, &all).await, (150, Ok(())), "again");
    assert_eq!(fs.remove(dir, &[]).await, (0, Ok(())));
}

pub(super) async fn a_removed_directory_is_stale<F: Fs>(fs: &F, dir: &F::Handle) {
    let removed = mkdir(fs, dir, "removed").await;
    let replaced = mkdir(fs, dir, "replaced").await;
    fs.rmdir(dir, &name("removed")).await.unwrap();
    mkdir(fs, dir, "new").await;
    fs.rename(dir, &name("new"), dir, &name("replaced")).await.unwrap();
    mkdir(fs, dir, "removed").await;
    for gone in [&removed, &replaced] {
        assert_eq!(answer(fs.getattr(gone).await), Err(Status::Stale));
        assert_eq!(answer(fs.mkdir(gone, &name("d"), 0o755).await), Err(Status::Stale));
        assert_eq!(answer(fs.create(gone, &name("f"), 0o644).await), Err(Status::Stale));
        assert_eq!(answer(fs.readdir(gone, 0).await), Err(Status::Stale));
        assert_eq!(answer(fs.lookup(gone, &name("d")).await), Err(Status::Stale));
        assert_eq!(fs.unlink(gone, &name("d")).await, Err(Status::Stale));
        assert_eq!(fs.rmdir(gone, &name("d")).await, Err(Status::Stale));
        assert_eq!(fs.rename(gone, &name("d"), dir, &name("d")).await, Err(Status::Stale));
        assert_eq!(fs.rename(dir, &name("removed"), gone, &name("d")).await, Err(Status::Stale));
    }
    for text in ["removed", "replaced"] {
        let (new, _) = fs.lookup(dir, &name(text)).await.unwrap();
        assert_eq!(list(fs, &new).await, [], "{text}");
    }
}

pub(super) async fn a_removed_file_is_gone_by_name<F: Fs>(fs: &F, dir: &F::Handle) {
    let place = mkdir(fs, dir, "place").await;
    let (held, _) = fs.create(&place, &name("held"), 0o644).await.unwrap();
    file(fs, &place, "old", "old").await;
    file(fs, &place, "new", "new").await;
    let (old, _) = fs.open(&place, &name("old"), OpenMode::Read).await.unwrap();
    fs.rename(&place, &name("new"), &place, &name("old")).await.unwrap();
    fs.unlink(&place, &name("held")).await.unwrap();
    assert_eq!(answer(fs.lookup(&place, &name("held")).await), Err(Status::NoEnt));
    let (new, _) = fs.open(&place, &name("old"), OpenMode::Read).await.unwrap();
    assert_eq!(fs.read(&new, 0, 100).await.unwrap(), b"new");
    fs.create(&place, &name("held"), 0o644).await.unwrap();
    // An NFS client keeps a removed file under another name in its directory while the file is open.
    drop((held, old, new));
    for text in ["held", "old"] {
        fs.unlink(&place, &name(text)).await.unwrap();
    }
    becomes(Ok(()), async || fs.rmdir(dir, &name("place")).await).await;
}
