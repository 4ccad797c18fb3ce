//! `make demo`: the driver's main job on a real NFS server, step by step, for newcomers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a demonstration has nobody to report to")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a demonstration prints its steps")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use csi_nfs::service::proto::csi::volume_usage::Unit;

#[path = "tests/support/mod.rs"]
mod support;

use support::requests::{self, MIB};
use support::{Driver, Lab, Place, csi, mounts};

/// Numbers and announces the steps.
struct Steps(u32);

impl Steps {
    fn say(&mut self, what: &str) {
        self.0 += 1;
        println!("\n{}. {what}", self.0);
    }
}

fn show(line: impl AsRef<str>) {
    println!("      {}", line.as_ref());
}

/// Makes a call and prints its duration.
async fn call<T>(name: &str, call: impl Future<Output = Result<T, tonic::Status>>) -> T {
    let start = Instant::now();
    let answer = call.await.unwrap_or_else(|status| panic!("{name}: {status}"));
    show(format!("{name}: OK, in {:.1} ms", start.elapsed().as_secs_f64() * 1e3));
    answer
}

/// Prints a directory as `ls -l` does.
fn list(directory: &Path) {
    show(format!("$ ls -l {}", directory.display()));
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(Result::unwrap).collect();
    entries.retain(|entry| entry.file_name() != ".csi-nfs");
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in &entries {
        let meta = entry.metadata().unwrap();
        let kind = if meta.is_dir() { 'd' } else { '-' };
        let bits = |shift: u32| {
            let mode = meta.mode() >> shift;
            ['r', 'w', 'x']
                .iter()
                .zip([4, 2, 1])
                .map(|(c, bit)| if mode & bit > 0 { *c } else { '-' })
                .collect::<String>()
        };
        let name = entry.file_name();
        show(format!("{kind}{}{}{} {:>5} {:>5} {}", bits(6), bits(3), bits(0), meta.uid(), meta.gid(), name.display()));
    }
    if entries.is_empty() {
        show("(empty)");
    }
}

fn show_mount(target: &Path) {
    for mount in mounts::at(target) {
        let telling =
            |option: &&String| option.starts_with("vers=") || ["rw", "ro", "nosuid", "nodev"].contains(&&***option);
        let options: Vec<&str> = mount.options.iter().filter(telling).map(String::as_str).collect();
        show(format!("mounted: {} ({} {})", mount.source, mount.kind, options.join(",")));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut steps = Steps(0);
    println!("csi-nfs, from an empty export to an empty export");

    let lab = Lab::alone().await;
    let share = lab.share(Place::Xfs);
    steps.say("An NFS server exports an empty directory. Here it is the kernel's own server, on an XFS disk.");
    show(format!("{}:{} is {} on the server", share.server, share.share, share.path.display()));
    list(&share.path);

    steps.say("The driver starts. It is one static program, starts no other programs, and listens on a unix socket.");
    let driver = Driver::start().await;
    let info = driver.identity().get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap().into_inner();
    let size = fs::metadata(support::driver::program()).unwrap().len();
    show(format!("{} {} on {}", info.name, info.vendor_version, driver.socket().display()));
    show(format!("{:.1} MB on disk, {:.1} MB of memory", size as f64 / 1e6, driver.proc_status("VmRSS") as f64 / 1e3));

    steps.say("A user creates a PersistentVolumeClaim. Kubernetes requests a volume of 100 MiB from the driver.");
    let mut request = requests::create(&share, "pvc-demo");
    request.capacity_range = requests::bytes(100 * MIB);
    request.parameters.insert("mountPermissions".into(), "0770".into());
    let volume = call("CreateVolume", driver.create(request)).await;
    show(format!("volume ID: {}", volume.volume_id));
    list(&share.path);

    steps.say("A pod that uses the claim is scheduled to this node. kubelet requests a mount of the volume.");
    let one = driver.target("one");
    call("NodePublishVolume", driver.publish(&volume, &one)).await;
    show_mount(&one);

    steps
        .say("A second pod follows. The second mount of an export is cheap, because the kernel reuses its connection.");
    let two = driver.target("two");
    call("NodePublishVolume", driver.publish(&volume, &two)).await;
    show_mount(&two);

    steps.say("The first pod writes, and the second pod reads.");
    fs::write(one.join("greeting"), "hello from the first pod\n").unwrap();
    show("$ echo hello from the first pod > greeting      (first pod)");
    show("$ cat greeting                                  (second pod)");
    show(fs::read_to_string(two.join("greeting")).unwrap().trim_end());

    steps.say("kubelet requests the usage of the volume.");
    for usage in call("NodeGetVolumeStats", driver.stats(&volume.volume_id, &one)).await {
        let (unit, per) = if usage.unit() == Unit::Bytes { ("MiB", MIB) } else { ("inodes", 1) };
        show(format!("{} of {} {unit} used", usage.used / per, usage.total / per));
    }

    steps.say("The claim is expanded to 200 MiB while it is in use.");
    let capacity = call("ControllerExpandVolume", driver.expand(&volume.volume_id, 200 * MIB)).await;
    show(format!("capacity: {} MiB", capacity / MIB));

    steps.say("Both pods end.");
    for target in [&one, &two] {
        call("NodeUnpublishVolume", driver.unpublish(&volume.volume_id, target)).await;
        assert!(!target.exists() && mounts::at(target).is_empty());
    }
    show("nothing is mounted, and the targets are gone; the data is unchanged:");
    list(&share.path.join("pvc-demo"));

    steps.say(
        "The claim is deleted. The driver moves the directory to its trash at once and clears it in the background.",
    );
    call("DeleteVolume", driver.delete(&volume.volume_id)).await;
    share.trash_is_empty().await;
    list(&share.path);

    // A failure above would have panicked. A slow exit is a failure, too.
    let mut driver = driver;
    let ended = tokio::time::timeout(Duration::from_secs(10), driver.terminate()).await.unwrap();
    assert!(ended.success());
    println!("\nDone: the export is empty again.");
}
