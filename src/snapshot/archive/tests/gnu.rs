//! Archives of GNU tar unpack to the original tree.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::{fs, iter};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::export::copy::Options;
use crate::export::copy::tests::random::{Object, What, build, object};
use crate::export::fs::SetAttr;
use crate::export::kernel::KernelFs;
use crate::nfs::source::{Server, Share, Source};
use crate::testing::conformance::{Compared, assert_same_tree};
use crate::testing::local_directory;
use tempfile::TempDir;

const COMPARED: Compared = Compared { atimes: false, holes: false, link_times: true };

/// A local directory as an export, with the directories `source` and `s`.
struct Place {
    dir: TempDir,
    export: Arc<Export<KernelFs>>,
}

impl Place {
    fn new() -> Self {
        let (dir, fs) = local_directory::local();
        let share = Source::share(Server::parse("", "nfs").unwrap(), Share::parse("", "/export").unwrap());
        for name in ["source", "s"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, export: Arc::new(Export::new(share, fs, Arc::default())) }
    }

    fn source(&self) -> std::path::PathBuf {
        self.dir.path().join("source")
    }

    /// Packs `source` as csi-driver-nfs does, with additional arguments for tar.
    fn pack(&self, end: &str, arguments: &[&str]) {
        let archive = self.dir.path().join(format!("s/v{end}"));
        let compress = if end == ".tar.gz" { "-czf" } else { "-cf" };
        let output = Command::new("tar")
            .args(arguments)
            .arg("-C")
            .arg(self.source())
            .arg(compress)
            .arg(&archive)
            .arg(".")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Unpacks the archive, and compares it with `source`.
    async fn unpack_and_compare(&self, in_flight: usize) {
        let how = How { options: Options { in_flight }, ..How::default() };
        // tar does not store access times, and reading changes them.
        touch(&self.source(), &["-a", "-d", "2200-01-01"]);
        let (root, _stage) = unpack_on(&self.export, CAPACITY_LIMIT, &how).await.unwrap();
        let fs = self.export.fs();
        let (source, _) = fs.lookup(&fs.root(), &Name::new("source").unwrap()).await.unwrap();
        assert_same_tree(fs, &source, fs, &root, COMPARED).await;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The objects that tar can store: no sockets, and no devices and FIFOs if there are hard links.
fn packed(mut objects: Vec<Object>, whole_seconds: bool) -> Vec<Object> {
    let linked = objects.iter().any(|object| matches!(object.what, What::Link(_)));
    objects.retain(|object| match object.what {
        What::Special(kind) => kind != Kind::Socket && !linked,
        _ => true,
    });
    if whole_seconds {
        objects.iter_mut().for_each(|object| object.mtime.1 = 0);
    }
    objects
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_tree_that_tar_packs_is_restored_exactly(
        objects in vec(object(), 0..60),
        in_flight in 1..20usize,
        (posix, bare, sparse, gzip) in any::<(bool, bool, bool, bool)>(),
    ) {
        let place = Place::new();
        runtime().block_on(async {
            let fs = place.export.fs();
            let (source, _) = fs.lookup(&fs.root(), &Name::new("source").unwrap()).await.unwrap();
            build(fs, &source, &packed(objects, !posix)).await;
            let mtime = Some(Time { seconds: 5, nanoseconds: if posix { 7 } else { 0 } });
            fs.setattr(&source, SetAttr { mtime, ..SetAttr::default() }).await.unwrap();
            let format = if posix { "--format=posix" } else { "--format=gnu" };
            let mut arguments = vec![format];
            // Without `./` at the start of the members' paths.
            arguments.extend(bare.then_some("--transform=s,^\\./,,S"));
            // The driver refuses sparse files in pax format.
            arguments.extend((sparse && !posix).then_some("--sparse"));
            place.pack(if gzip { ".tar.gz" } else { ".tar" }, &arguments);
            place.unpack_and_compare(in_flight).await;
        });
    }
}

#[tokio::test]
async fn long_names_links_owners_special_bits_and_holes_are_restored() {
    for format in ["--format=gnu", "--format=posix"] {
        let place = Place::new();
        let source = place.source();
        let deep: String = iter::repeat_n("directory/", 100).collect();
        fs::create_dir_all(source.join(&deep)).unwrap();
        let long = "n".repeat(250);
        fs::write(source.join(&deep).join(&long), "deep").unwrap();
        fs::hard_link(source.join(&deep).join(&long), source.join("linked")).unwrap();
        symlink("t".repeat(300), source.join("link")).unwrap();
        symlink("/etc/passwd", source.join("absolute")).unwrap();
        fs::write(source.join("program"), "x").unwrap();
        chown(source.join("program"), Some(3_000_000), Some(4_000_000)).unwrap();
        fs::set_permissions(source.join("program"), fs::Permissions::from_mode(0o6755)).unwrap();
        let large = fs::File::create(source.join("large")).unwrap();
        large.write_all_at(&vec![7; 3 << 20], 1 << 20).unwrap();
        large.set_len(40 << 20).unwrap();
        fs::create_dir(source.join("new\nline")).unwrap();
        fs::write(source.join("new\nline/f"), "").unwrap();
        chown(&source, Some(7), Some(8)).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o3751)).unwrap();
        touch(&source, &["-d", "2001-02-03 04:05:06"]);
        place.pack(".tar.gz", &[format]);
        place.unpack_and_compare(16).await;
    }
}

/// Runs touch(1) with these arguments on a directory and everything below it.
fn touch(dir: &Path, time: &[&str]) {
    let mut find = Command::new("find");
    find.arg(dir).args(["-exec", "touch", "-h"]).args(time).args(["{}", "+"]);
    assert!(find.status().unwrap().success());
}

#[tokio::test]
async fn the_holes_of_a_sparse_file_are_restored_if_tar_records_them() {
    let place = Place::new();
    let disk = fs::File::create(place.source().join("disk")).unwrap();
    for part in 0..100 {
        disk.write_all_at(&[7; 4096], part << 20).unwrap();
    }
    disk.set_len(1 << 30).unwrap();
    touch(&place.source(), &["-d", "2001-02-03 04:05:06"]);
    place.pack(".tar.gz", &["--sparse", "--format=gnu"]);
    place.unpack_and_compare(16).await;
    let copy = place.dir.path().join(".csi-nfs/staging/r/disk");
    assert!(std::os::unix::fs::MetadataExt::blocks(&fs::metadata(copy).unwrap()) < (2 << 20) / 512);

    place.pack(".tar", &["--sparse", "--format=posix"]);
    fs::remove_file(place.dir.path().join("s/v.tar.gz")).unwrap();
    let refused = unpack_on(&place.export, CAPACITY_LIMIT, &How::default()).await.err().unwrap();
    assert!(refused.to_string().contains("sparse file in pax format"), "{refused}");
}
