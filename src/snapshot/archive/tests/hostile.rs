//! Archives that lead out of the volume, are decompression bombs, or are damaged.

use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;
use tokio::time::{Instant, sleep};

use super::*;

#[rstest]
#[case(file("../evil", "x"), "leads upwards")]
#[case(file("a/../../evil", "x"), "leads upwards")]
#[case(file("/theirs/precious", "x"), "is absolute")]
#[case(member(b'5', b"..", b"", b""), "leads upwards")]
#[case([pax(&[("path", "../evil")]), file("a", "x")].concat(), "leads upwards")]
#[case([member(b'L', b"././@LongLink", b"", b"/evil\0"), file("a", "x")].concat(), "is absolute")]
#[case([pax(&[("path", "a\0b")]), file("a", "x")].concat(), "not a valid name")]
#[case(file(".", "x"), "a root that is not a directory")]
#[case([member(b'2', b"up", b"../../../theirs", b""), file("up/precious", "x")].concat(), "leads through `up`")]
#[case([member(b'2', b"up", b"/theirs", b""), member(b'5', b"up/d", b"", b"")].concat(), "leads through `up`")]
#[case([file("f", "x"), file("f/g", "x")].concat(), "leads through `f`")]
#[case(member(b'1', b"l", b"../../../theirs/precious", b""), "leads upwards")]
#[case(member(b'1', b"l", b"/theirs/precious", b""), "is absolute")]
#[case(member(b'1', b"l", b"nothing", b""), "not in the archive before it")]
#[case(
    [member(b'2', b"up", b"../../../theirs", b""), member(b'1', b"l", b"up/precious", b"")].concat(),
    "leads through `up`"
)]
#[case([member(b'5', b"d", b"", b""), member(b'1', b"l", b"d", b"")].concat(), "which is a directory")]
#[case(member(b'1', b"l", b".", b""), "which is a directory")]
#[case(member(b'2', b"l", b"", b""), "cannot be created")]
#[case([member(b'5', b"d", b"", b""), file("d", "x")].concat(), "a member `d` that cannot be created")]
#[case([member(b'5', b"d", b"", b""), member(b'6', b"d", b"", b"")].concat(), "a member `d` that cannot be created")]
#[case([file("d/f", "x"), member(b'1', b"d", b"d/f", b"")].concat(), "a member `d` that cannot be created")]
#[case(member_as(b'0', b"f", b"", b"", |h| h.set_uid(u64::from(u32::MAX))), "an invalid owner")]
#[case(member_as(b'0', b"f", b"", b"", |h| h.set_gid(1 << 40)), "an invalid owner")]
#[case(member_as(b'0', b"f", b"", b"", |h| h.as_old_mut().uid = *b"1\x1b[2J000"), r"1\u{1b}[2J000")]
#[case(member_as(b'0', b"f", b"", b"", |h| h.set_size(u64::MAX)), "an impossible size")]
#[case(member_as(b'x', b"f", b"", b"", |h| h.set_size(1 << 40)), "reads at most 1048576")]
#[case(member_as(b'L', b"f", b"", b"", |h| h.set_size(1 << 40)), "reads at most 32768")]
#[case(member(b'M', b"f", b"", b""), "type `M`")]
#[case(pax(&[("size", "-1")]), "the pax record `size` has an invalid value")]
#[case(b"no archive at all".repeat(100), "checksum")]
#[case(Vec::new(), "")]
#[tokio::test]
async fn an_archive_that_leads_out_of_the_volume_or_is_damaged_is_refused_by_name(
    #[case] members: Vec<u8>,
    #[case] why: &str,
) {
    let result = unpacked(&archive(&[members]), CAPACITY_LIMIT).await;
    if why.is_empty() {
        assert!(result.unwrap().0.is_empty());
        return;
    }
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Precondition(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(why) && text.contains("`s/v.tar` of nfs:/export") && text.contains("delete"), "{text}");
}

#[tokio::test]
async fn members_may_come_in_any_order_and_the_last_of_a_name_counts() {
    let at = |seconds: u64| move |header: &mut Header| header.set_mtime(seconds);
    let members = [
        member_as(b'5', b"./", b"", b"", |h| h.set_mode(0o700)),
        member_as(b'5', b"d/", b"", b"", at(10)),
        file("e/f", "one"),
        file("d/f", "one"),
        file("d/f", "two"),
        member(b'2', b"l", b"d", b""),
        member(b'5', b"l", b"", b""),
        file("l/f", "in a directory that was a link"),
        member(b'1', b"d/g", b"./d/f", b""),
        member(b'1', b"d/g", b"d/f", b""),
        file("d/late", "x"),
        member(b'0', b"old/", b"", b""),
        member_as(b'5', b".", b"", b"", |h| h.set_mode(0o2750)),
    ];
    let server = MemoryServer::new();
    server.plant("s/v.tar", Node::file(0o644, archive(&members))).unwrap();
    let export = connect(&server);
    let (root, _stage) = unpack_on(&export, CAPACITY_LIMIT, &How::default()).await.unwrap();
    let attr = export.fs().getattr(&root).await.unwrap();
    assert_eq!((attr.mode, attr.uid, attr.mtime.seconds), (0o2750, 1000, 1_700_000_000));
    let (_, attr) = export.fs().lookup(&root, &Name::new("d").unwrap()).await.unwrap();
    assert_eq!(attr.mtime.seconds, 10, "later members in the directory do not change its time");
    let tree = server.tree().below(".csi-nfs/staging/r");
    assert_eq!(tree.paths(), ["d", "d/f", "d/g", "d/late", "e", "e/f", "l", "l/f", "old"]);
    assert_eq!((tree.get("d/f").unwrap().text(), tree.get("d/g").unwrap().text()), ("two".into(), "two".into()));
}

#[tokio::test]
async fn an_archive_that_go_packed_is_restored() {
    // As csi-driver-nfs packs in Go: no `./` at the start, `.` for the root, a directory's name with or without a
    // slash.
    let members = [
        member_as(b'5', b".", b"", b"", |h| h.set_mode(0o777)),
        member(b'5', b"sub", b"", b""),
        file("sub/file", "kept"),
        member(b'5', b"empty/", b"", b""),
    ];
    let tree = unpacked_from("s/v.tar.gz", &gzip(&archive(&members)), CAPACITY_LIMIT).await.unwrap();
    assert_eq!(tree.paths(), ["empty", "sub", "sub/file"]);
    assert_eq!(tree.get("sub/file").unwrap(), &Node::file(0o644, "kept").owned_by(1000, 2000));
}

#[tokio::test]
async fn times_before_1970_are_restored() {
    let old = |header: &mut Header| {
        let number = (-86_400_i64).to_be_bytes();
        let mtime = &mut header.as_old_mut().mtime;
        mtime.fill(0xff);
        mtime[4..].copy_from_slice(&number);
    };
    let members = [member_as(b'0', b"a", b"", b"x", old), pax(&[("mtime", "-1.25")]), file("b", "x")];
    let server = MemoryServer::new();
    server.plant("s/v.tar", Node::file(0o644, archive(&members))).unwrap();
    let export = connect(&server);
    let (root, _stage) = unpack_on(&export, CAPACITY_LIMIT, &How::default()).await.unwrap();
    let time = async |name: &str| export.fs().lookup(&root, &Name::new(name).unwrap()).await.unwrap().1.mtime;
    assert_eq!(time("a").await, Time { seconds: -86_400, nanoseconds: 0 });
    assert_eq!(time("b").await, Time { seconds: -2, nanoseconds: 750_000_000 });
}

#[tokio::test]
async fn an_archive_that_holds_more_than_the_volume_is_out_of_range() {
    let bomb = gzip(&archive(&[member(b'0', b"zeros", b"", &vec![0; 32 << 20])]));
    assert!(bomb.len() < 1 << 20);
    let error = unpacked_from("s/v.tar.gz", &bomb, 1 << 20).await.unwrap_err();
    assert!(matches!(error, Error::CapacityOutOfRange(_)) && error.to_string().contains("1048576"), "{error}");
    let halves = archive(&[file("a", &"x".repeat(600)), file("b", &"x".repeat(600))]);
    assert!(matches!(unpacked(&halves, 1199).await, Err(Error::CapacityOutOfRange(_))));
    assert_eq!(unpacked(&halves, 1200).await.unwrap().paths(), ["a", "b"]);
    // The driver stops reading if the data after the end is too long.
    let long = gzip(&[archive(&[]), vec![0; 4 << 20]].concat());
    let error = unpacked_from("s/v.tar.gz", &long, CAPACITY_LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("has data after its end"), "{error}");
}

#[tokio::test]
async fn too_many_members_are_refused() {
    let server = MemoryServer::new();
    let bytes = archive(&[pax(&[]), pax(&[]), pax(&[]), file("a", "")]);
    server.plant("s/v.tar", Node::file(0o644, &bytes)).unwrap();
    let export = connect(&server);
    for (most, allowed) in [(3, false), (4, true)] {
        let archive = Archive::new(export.clone(), get(&export, &snapshot()).await.unwrap(), CAPACITY_LIMIT);
        let (handle, attr) = archive.open().await.unwrap();
        let mut members = members::Members::new(input::Input::new(export.clone(), handle, attr.size, false), most);
        assert_eq!(members.next().await.is_ok(), allowed);
    }
}

#[tokio::test]
async fn a_truncated_archive_is_refused_wherever_it_ends() {
    let tar = archive(&[member(b'5', b"./", b"", b""), file("./a", &"content".repeat(100)), file("./b", "x")]);
    let whole = unpacked(&tar, CAPACITY_LIMIT).await.unwrap();
    for length in (0..tar.len() - 1024).step_by(64) {
        let error = unpacked(&tar[..length], CAPACITY_LIMIT).await.unwrap_err();
        assert!(matches!(error, Error::Precondition(_)), "{length}: {error:?}");
    }
    let compressed = gzip(&tar);
    assert_eq!(unpacked_from("s/v.tar.gz", &compressed, CAPACITY_LIMIT).await.unwrap(), whole);
    for length in 0..compressed.len() {
        let error = unpacked_from("s/v.tar.gz", &compressed[..length], CAPACITY_LIMIT).await.unwrap_err();
        assert!(matches!(error, Error::Precondition(_)), "{length}: {error:?}");
    }
    let error = unpacked_from("s/v.tar.gz", &tar, CAPACITY_LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("cannot be decompressed"), "{error}");
    // A gzip file may consist of several gzip streams, one after the other (gzip(1)).
    let parts = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    assert_eq!(unpacked_from("s/v.tar.gz", &parts, CAPACITY_LIMIT).await.unwrap(), whole);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_damaged_archive_is_refused_or_read_and_nothing_outside_is_touched(
        damage in proptest::collection::vec((0..4096usize, any::<u8>()), 1..6),
        compressed in any::<bool>(),
    ) {
        let tar = archive(&[
            member(b'5', b"./", b"", b""),
            pax(&[("mtime", "1.5"), ("path", "d/long")]),
            file("d/a", &"content".repeat(60)),
            member(b'1', b"l", b"d/long", b""),
            member(b'2', b"up", b"../../theirs", b""),
        ]);
        let mut bytes = if compressed { gzip(&tar) } else { tar };
        let length = bytes.len();
        for (at, byte) in damage {
            bytes[at % length] = byte;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let file = if compressed { "s/v.tar.gz" } else { "s/v.tar" };
        let _ = runtime.block_on(unpacked_from(file, &bytes, CAPACITY_LIMIT));
    }

    #[test]
    fn any_bytes_with_a_header_s_checksum_are_refused_or_read(
        bytes in proptest::collection::vec(any::<u8>(), 512),
        kind in proptest::sample::select(&b"\x000123456789xgLKSDMV"[..]),
    ) {
        let mut header = Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&bytes);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_cksum();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _ = runtime.block_on(unpacked(&archive(&[header.as_bytes().to_vec(), file("a", "x")]), CAPACITY_LIMIT));
    }
}

#[tokio::test(start_paused = true)]
async fn unpacking_ends_soon_after_it_is_cancelled() {
    let members: Vec<Vec<u8>> = (0..500).map(|n| file(&n.to_string(), "content")).collect();
    let server = MemoryServer::new();
    server.plant("s/v.tar", Node::file(0o644, archive(&members))).unwrap();
    let export = connect(&server);
    export.make_layout().await.unwrap();
    export.fs().delay(Duration::from_millis(100));
    let how = How::default();
    let cancel = async {
        sleep(Duration::from_secs(5)).await;
        how.cancel.cancel();
        Instant::now()
    };
    let (result, cancelled) = tokio::join!(unpack_on(&export, CAPACITY_LIMIT, &how), cancel);
    assert!(matches!(result, Err(Error::Interrupted(_))));
    assert!(cancelled.elapsed() < Duration::from_secs(1));
    let done = how.progress.totals();
    assert!(done.entries > 0 && done.bytes > 0, "{done:?}");
}

#[tokio::test(start_paused = true)]
async fn an_archive_that_changes_while_it_is_read_is_refused() {
    let mut refused = 0;
    for operation in 0..40 {
        let server = MemoryServer::new();
        server.plant("s/v.tar", Node::file(0o644, archive(&[file("a", "x"), file("b", "x")]))).unwrap();
        let export = connect(&server);
        export.make_layout().await.unwrap();
        export.fs().delay(Duration::from_millis(100));
        let write = async {
            sleep(Duration::from_millis(100 * operation + 50)).await;
            let fs = server.client();
            let (dir, _) = fs.lookup(&fs.root(), &Name::new("s").unwrap()).await.unwrap();
            let (file, attr) = fs.open(&dir, &Name::new("v.tar").unwrap(), OpenMode::ReadWrite).await.unwrap();
            fs.write(&file, attr.size, vec![0; 512]).await.unwrap();
        };
        let how = How::default();
        // The archive is whole if the change comes before it is read, or after.
        if let (Err(error), ()) = tokio::join!(unpack_on(&export, CAPACITY_LIMIT, &how), write) {
            assert!(error.to_string().contains("written to while it was read"), "{error}");
            refused += 1;
        }
    }
    assert!((2..20).contains(&refused), "{refused}");
}
