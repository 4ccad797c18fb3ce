//! Trees that are hard to copy.

use super::*;
use crate::export::fs::{SetAttr, Time};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Fills the directory with everything that a copy has to preserve: all kinds of objects, names, modes, owners, times,
/// holes, hard links, and extended attributes if the server supports them. Adds `files` small files in several
/// directories.
pub async fn nasty_tree<F: Fs>(fs: &F, dir: &F::Handle, files: usize) {
    contents(fs, &mkdir(fs, dir, "contents").await).await;
    modes(fs, &mkdir(fs, dir, "modes").await).await;
    names_and_links(fs, &mkdir(fs, dir, "names").await).await;
    hard_links(fs, &mkdir(fs, dir, "links").await).await;
    specials(fs, &mkdir(fs, dir, "specials").await).await;
    xattrs(fs, dir).await;
    let many = mkdir(fs, dir, "many").await;
    for number in 0..files.div_ceil(100) {
        let place = mkdir(fs, &many, &number.to_string()).await;
        for number in number * 100..files.min(number * 100 + 100) {
            file(fs, &place, &number.to_string(), &"content ".repeat(number % 300)).await;
        }
    }
    // The path is longer than PATH_MAX.
    deep_tree(fs, &mkdir(fs, dir, "deep").await, 200).await;
    let times = (Time { seconds: 1, nanoseconds: 1 }, Time { seconds: 2_000_000_000, nanoseconds: 999_999_999 });
    for (text, (atime, mtime)) in [("many", times), ("names", (times.1, times.0)), ("specials", times)] {
        let (object, _) = fs.lookup(dir, &name(text)).await.unwrap();
        set(fs, &object, SetAttr { atime: Some(atime), mtime: Some(mtime), ..SetAttr::default() }).await;
    }
    set(
        fs,
        dir,
        SetAttr { uid: Some(7), gid: Some(8), mode: Some(0o3751), mtime: Some(times.0), ..Default::default() },
    )
    .await;
}

/// Creates a tree with this many levels in the directory, with a file in each.
pub async fn deep_tree<F: Fs>(fs: &F, dir: &F::Handle, levels: usize) {
    let mut dir = dir.clone();
    for level in 0..levels {
        file(fs, &dir, "file", &level.to_string()).await;
        dir = mkdir(fs, &dir, &format!("{level:0>20}")).await;
    }
}

async fn set<F: Fs>(fs: &F, object: &F::Handle, attr: SetAttr) {
    fs.setattr(object, attr).await.unwrap();
}

/// Files of many sizes, with and without holes.
async fn contents<F: Fs>(fs: &F, dir: &F::Handle) {
    for size in [0, 1, 4095, 4096, 4097, 64 * KIB, 64 * KIB + 1, MIB, 3 * MIB + 7] {
        write_at(fs, dir, &format!("size-{size}"), &[(0, size)], size).await;
    }
    write_at(fs, dir, "hole-first", &[(8 * MIB, 5)], 8 * MIB + 5).await;
    write_at(fs, dir, "hole-last", &[(0, 5)], 8 * MIB).await;
    write_at(fs, dir, "hole-between", &[(0, 100), (4 * MIB, 64 * KIB), (6 * MIB, 9)], 6 * MIB + 9).await;
    write_at(fs, dir, "hole-alone", &[], 8 * MIB + 1).await;
    write_at(fs, dir, "hole-large", &[(32 * MIB, 4096)], 64 * MIB).await;
    write_at(fs, dir, "hole-small", &[(60 * KIB, 1)], 64 * KIB).await;
}

async fn write_at<F: Fs>(fs: &F, dir: &F::Handle, text: &str, data: &[(u64, u64)], size: u64) {
    let (file, _) = fs.create(dir, &name(text), 0o644).await.unwrap();
    for (offset, length) in data {
        let content = (0..*length).map(|at| ((at / 7 + offset) % 251 + 1) as u8).collect();
        fs.write(&file, *offset, content).await.unwrap();
    }
    set(fs, &file, SetAttr { size: Some(size), ..SetAttr::default() }).await;
    fs.commit(&file).await.unwrap();
}

async fn modes<F: Fs>(fs: &F, dir: &F::Handle) {
    for (number, mode) in [0, 0o4755, 0o2755, 0o2644, 0o6711, 0o1644, 0o444, 0o7777].into_iter().enumerate() {
        for (uid, gid) in [(0, 0), (0, 1000), (1000, 0), (4_294_967_294, 65_534)] {
            let (file, _) = fs.create(dir, &name(format!("f{mode:o}-{uid}-{gid}")), 0o644).await.unwrap();
            fs.write(&file, 0, b"content".to_vec()).await.unwrap();
            fs.commit(&file).await.unwrap();
            let made = mkdir(fs, dir, &format!("d{mode:o}-{uid}-{gid}")).await;
            let time = Some(Time { seconds: number as i64 * 1_000_000, nanoseconds: uid % 1_000_000_000 });
            let attr =
                SetAttr { size: None, mode: Some(mode), uid: Some(uid), gid: Some(gid), atime: time, mtime: time };
            set(fs, &file, attr).await;
            // The content of a copy must not inherit its group or setgid.
            drop(mkdir(fs, &made, "inner").await);
            set(fs, &made, attr).await;
        }
    }
}

async fn names_and_links<F: Fs>(fs: &F, dir: &F::Handle) {
    let longest = [b'n'; 255];
    let texts: [&[u8]; 9] = [b" ", b"-rf", b"...", b"a\nb", b"a\\b", b"\xff\xfe", b"\xc3\xa9", b"e\xcc\x81", &longest];
    for text in texts {
        drop(mkdir(fs, dir, "d").await);
        fs.rename(dir, &name("d"), dir, &name(text)).await.unwrap();
        let (made, _) = fs.lookup(dir, &name(text)).await.unwrap();
        fs.create(&made, &name(text), 0o600).await.unwrap();
        let (link, _) = fs.symlink(&made, &name("link"), text).await.unwrap();
        let time = Time { seconds: 5, nanoseconds: 6 };
        set(
            fs,
            &link,
            SetAttr { uid: Some(3), gid: Some(4), mtime: Some(time), atime: Some(time), ..Default::default() },
        )
        .await;
    }
    for (text, target) in [("absolute", "/etc/passwd"), ("up", "../../../.."), ("itself", "itself")] {
        fs.symlink(dir, &name(text), target.as_bytes()).await.unwrap();
    }
    fs.symlink(dir, &name("long"), &[b'x'; 1000]).await.unwrap();
}

async fn hard_links<F: Fs>(fs: &F, dir: &F::Handle) {
    let (one, two) = (mkdir(fs, dir, "one").await, mkdir(fs, dir, "two").await);
    file(fs, &one, "file", "content").await;
    file(fs, &one, "empty", "").await;
    fs.symlink(&one, &name("symlink"), b"file").await.unwrap();
    fs.mknod(&one, &name("fifo"), Kind::Fifo, 0o600, (0, 0)).await.unwrap();
    for text in ["file", "empty", "symlink", "fifo"] {
        let (object, _) = fs.lookup(&one, &name(text)).await.unwrap();
        for number in 0..20 {
            let place = if number % 2 == 0 { &one } else { &two };
            fs.link(&object, place, &name(format!("{text}-{number}"))).await.unwrap();
        }
    }
    let (file, _) = fs.lookup(&one, &name("file")).await.unwrap();
    set(fs, &file, SetAttr { uid: Some(9), mode: Some(0o4711), ..SetAttr::default() }).await;
}

async fn specials<F: Fs>(fs: &F, dir: &F::Handle) {
    let objects = [
        ("fifo", Kind::Fifo, (0, 0)),
        ("socket", Kind::Socket, (0, 0)),
        ("null", Kind::CharDevice, (1, 3)),
        // XFS supports no larger number.
        ("block", Kind::BlockDevice, (259, 262_143)),
    ];
    for (text, kind, device) in objects {
        let (object, _) = fs.mknod(dir, &name(text), kind, 0o666, device).await.unwrap();
        let (atime, mtime) = (Time { seconds: 11, nanoseconds: 12 }, Time { seconds: 13, nanoseconds: 14 });
        let (atime, mtime) = (Some(atime), Some(mtime));
        set(fs, &object, SetAttr { uid: Some(5), gid: Some(6), mode: Some(0o1640), atime, mtime, size: None }).await;
    }
}

async fn xattrs<F: Fs>(fs: &F, dir: &F::Handle) {
    let place = mkdir(fs, dir, "xattrs").await;
    file(fs, &place, "file", "content").await;
    let (file, _) = fs.lookup(&place, &name("file")).await.unwrap();
    for object in [&file, &place] {
        match fs.set_xattr(object, b"user.one", b"1").await {
            Err(Status::NotSupp) => {}
            set => set.unwrap(),
        }
        for (text, length) in [(&b"user.two"[..], 0), (b"user.a/b.\xff", 500), (b"user.large", 3000)] {
            match fs.set_xattr(object, text, &vec![7; length]).await {
                Err(Status::NotSupp) => {}
                set => set.unwrap(),
            }
        }
    }
}
