//! Volumes that are unpublished while their server is away. No written data is lost, and no other process's calls fail.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rstest::rstest;

use crate::support::requests;
use crate::support::wait::{self, within};
use crate::support::{Driver, Lab, Outage, Place, Share, mounts};

const TAKEN_DOWN: Duration = Duration::from_secs(10);
/// The longest time from the return of the server to the end of the calls that wait for it.
const BACK: Duration = Duration::from_secs(90);
const SIZE: usize = 8 << 20;

/// A process that reads commands from its standard input.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn order(&mut self, lines: &str) {
        self.0.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap_or_default()
    }

    /// Waits until the process waits in the kernel for a server.
    async fn waits_for_the_server(&self) {
        let stands = || self.proc("status").contains("State:\tD").then_some(());
        wait::until("a call that waits for the server", Duration::from_secs(10), stands).await;
    }

    async fn succeeds(&mut self, what: &str) {
        let status = wait::until(what, BACK, || self.0.try_wait().unwrap()).await;
        assert!(status.success(), "{what}: {status}");
    }
}

/// A process of a pod that has written a file through mmap. None of the data is on the server yet.
async fn with_dirty_memory(file: &Path) -> Process {
    let mut pod = Process::start(Command::new("xfs_io").arg("-f").arg(file));
    pod.order(&format!("truncate {SIZE}\nmmap -rw 0 {SIZE}\nmwrite -S 0x5a 0 {SIZE}\n"));
    let name = file.file_name().unwrap().to_str().unwrap();
    wait::until("writing through memory", Duration::from_secs(10), || {
        let maps = pod.proc("smaps");
        let mapping = maps.split_once(name)?.1;
        let dirty = mapping.lines().find_map(|line| line.strip_prefix("Private_Dirty:"))?;
        let kilobytes: usize = dirty.split_whitespace().next()?.parse().ok()?;
        (kilobytes << 10 == SIZE).then_some(())
    })
    .await;
    pod
}

/// Makes a mount of the same export outside the driver, such as one in a host's fstab, and starts a process that writes
/// there on command. Also returns the device of the mount.
fn neighbour(share: &Share, at: &Path, hidden: bool) -> (Process, u64) {
    fs::create_dir(at).unwrap();
    let script = r#"mount -i -t nfs -o "vers=4.2,addr=$1" "$1:$2" "$0" && stat -c %d "$0" && read -r _ &&
        exec dd if=/dev/zero "of=$0/neighbour" bs=1M count=2 conv=fsync status=none"#;
    let mut command = Command::new("unshare");
    if hidden {
        command.args(["--mount", "--propagation=private"]);
    }
    command.args(["--", "sh", "-c", script]).arg(at).args([&share.server, &share.share]);
    let mut process = Process::start(&mut command);
    let mut device = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut device).unwrap();
    (process, device.trim().parse().unwrap())
}

#[rstest]
#[case::that_the_driver_does_not_see(12, true)]
#[case::that_the_driver_sees(25, false)]
#[tokio::test]
async fn what_a_pod_wrote_reaches_a_server_that_comes_back_and_another_mount_s_calls_do_not_fail(
    #[case] seconds: u64,
    #[case] hidden: bool,
) {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Ganesha);
    let driver = Driver::start().await;
    let volume = driver.create(requests::create(&share, "v")).await.unwrap();
    let target = driver.target("pod");
    driver.publish(&volume, &target).await.unwrap();
    let mut pod = with_dirty_memory(&target.join("file")).await;
    let (mut neighbour, device) = neighbour(&share, &driver.path("neighbour"), hidden);
    assert_eq!(device, fs::metadata(&target).unwrap().st_dev(), "both mounts share a superblock");
    {
        let _away = lab.without_ganesha(Outage::CutOff);
        let gone = Instant::now();
        pod.order("fsync\nquit\n");
        neighbour.order("\n");
        pod.waits_for_the_server().await;
        neighbour.waits_for_the_server().await;
        within("NodeUnpublishVolume", TAKEN_DOWN, driver.unpublish(&volume.volume_id, &target)).await.unwrap();
        assert!(mounts::at(&target).is_empty() && !target.exists());
        tokio::time::sleep(Duration::from_secs(seconds).saturating_sub(gone.elapsed())).await;
    }
    pod.succeeds("the pod's fsync").await;
    neighbour.succeeds("the write on another mount").await;
    assert!(fs::read(share.path.join("v/file")).unwrap() == [0x5a; SIZE], "all bytes are on the server");
    assert_eq!(fs::metadata(share.path.join("neighbour")).unwrap().len(), 2 << 20);
}
