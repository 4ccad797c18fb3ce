//! Listings of directories, and the figures of the file system.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Creates so many entries, with such long names, that every implementation needs several pages. Returns the names.
async fn fill<F: Fs>(fs: &F, dir: &F::Handle) -> BTreeSet<Name> {
    let mut made = BTreeSet::new();
    for number in 0..600 {
        let name = name(format!("{number:0>200}"));
        if number % 3 == 0 {
            fs.mkdir(dir, &name, 0o755).await.unwrap();
        } else {
            fs.create(dir, &name, 0o644).await.unwrap();
        }
        made.insert(name);
    }
    made
}

pub(super) async fn a_listing_has_every_entry_once<F: Fs>(fs: &F, dir: &F::Handle) {
    assert_eq!(fs.readdir(dir, 0).await.unwrap().entries, [], "a listing has neither . nor ..");
    let made = fill(fs, dir).await;
    let first = fs.readdir(dir, 0).await.unwrap();
    assert!(first.entries.len() < made.len() && first.next.is_some(), "the listing needs several pages");
    let listed = list(fs, dir).await;
    assert_eq!(listed.len(), made.len());
    let by_name: BTreeMap<_, _> = listed.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
    assert_eq!(by_name.keys().cloned().collect::<BTreeSet<_>>(), made);
    for (name, entry) in by_name {
        let (_, attr) = fs.lookup(dir, &name).await.unwrap();
        assert_eq!(entry.fileid, attr.fileid);
        assert!(entry.kind.is_none_or(|kind| kind == attr.kind), "{entry:?}");
    }
}

pub(super) async fn a_listing_goes_on_where_it_was_while_entries_are_removed<F: Fs>(fs: &F, dir: &F::Handle) {
    let made = fill(fs, dir).await;
    let (mut seen, mut next) = (BTreeSet::new(), Some(0));
    while let Some(cookie) = next {
        let page = fs.readdir(dir, cookie).await.unwrap();
        for Entry { name, .. } in page.entries {
            match fs.unlink(dir, &name).await {
                Err(Status::IsDir) => fs.rmdir(dir, &name).await.unwrap(),
                other => other.unwrap(),
            }
            assert!(seen.insert(name), "seen twice");
        }
        next = page.next;
    }
    assert_eq!(seen, made);
    assert_eq!(list(fs, dir).await, []);
}

pub(super) async fn a_file_is_read_if_a_directory_lacks_names<F: Fs>(fs: &F, dir: &F::Handle) {
    let (lacking, names) = (mkdir(fs, dir, "lacking").await, ["a", "b"].map(name));
    let read =
        async |text: &str, limit| fs.read_file_if_lacking((dir, &name(text), limit), (&lacking, &names)).await.unwrap();
    file(fs, dir, "file", "content").await;
    let tells = read("file", 100).await.is_some();
    let told = |answer| tells.then_some(answer);
    file(fs, &lacking, "other", "").await;
    assert_eq!(read("file", 100).await, told(Ok(b"content".to_vec())));
    assert_eq!(read("file", 6).await, told(Err(Status::FBig)));
    assert_eq!(read("lacking", 100).await, told(Err(Status::IsDir)));
    assert_eq!(read("missing", 100).await, told(Err(Status::NoEnt)));
    // A server may take names for the same that differ in case.
    for there in &["a", "b", "B"].map(name) {
        fs.symlink(&lacking, there, b"target").await.unwrap();
        assert_eq!(read("file", 100).await, None, "{there} is there");
        fs.unlink(&lacking, there).await.unwrap();
        assert_eq!(read("file", 100).await, told(Ok(b"content".to_vec())), "{there} is gone");
    }
    fill(fs, &lacking).await;
    assert_eq!(read("file", 100).await, None, "one request shows too few");
}

pub(super) async fn the_figures_of_the_file_system_make_sense<F: Fs>(fs: &F, dir: &F::Handle) {
    let stat = fs.statfs(dir).await.unwrap();
    assert!(stat.total_bytes > 0, "{stat:?}");
    assert!(stat.available_bytes <= stat.free_bytes && stat.free_bytes <= stat.total_bytes, "{stat:?}");
    assert!(stat.free_inodes <= stat.total_inodes, "{stat:?}");
}
