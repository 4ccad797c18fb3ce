//! What calls ask of the server, by the counters of the kernel's server: they count for both of the driver's clients.

use std::fs;

use futures_util::stream::{self, StreamExt as _};

use crate::CLIENTS;
use crate::support::{Driver, Lab, Place, Share, requests};

/// The number of calls of each kind.
const CALLS: usize = 100;
/// The number of concurrent calls.
const IN_FLIGHT: usize = 64;

/// The operations of NFS 4.2, in the order of their numbers (RFC 7862, section 13), from 3 on.
const NAMES: &str = "ACCESS CLOSE COMMIT CREATE DELEGPURGE DELEGRETURN GETATTR GETFH LINK LOCK LOCKT LOCKU LOOKUP LOOKUPP \
                     NVERIFY OPEN OPENATTR OPEN_CONFIRM OPEN_DOWNGRADE PUTFH PUTPUBFH PUTROOTFH READ READDIR READLINK \
                     REMOVE RENAME RENEW RESTOREFH SAVEFH SECINFO SETATTR SETCLIENTID SETCLIENTID_CONFIRM VERIFY WRITE \
                     RELEASE_LOCKOWNER BACKCHANNEL_CTL BIND_CONN_TO_SESSION EXCHANGE_ID CREATE_SESSION DESTROY_SESSION \
                     FREE_STATEID GET_DIR_DELEGATION GETDEVICEINFO GETDEVICELIST LAYOUTCOMMIT LAYOUTGET LAYOUTRETURN \
                     SECINFO_NO_NAME SEQUENCE SET_SSV TEST_STATEID WANT_DELEGATION DESTROY_CLIENTID RECLAIM_COMPLETE \
                     ALLOCATE COPY COPY_NOTIFY DEALLOCATE IO_ADVISE LAYOUTERROR LAYOUTSTATS OFFLOAD_CANCEL \
                     OFFLOAD_STATUS READ_PLUS SEEK WRITE_SAME CLONE GETXATTR SETXATTR LISTXATTRS REMOVEXATTR";

/// What every request has, whatever it asks for.
const FRAME: [&str; 4] = ["SEQUENCE", "PUTFH", "GETFH", "GETATTR"];

/// What the server has done so far.
pub struct Served {
    /// The requests, each of which has several operations (COMPOUND).
    pub requests: u64,
    operations: Vec<u64>,
}

impl Served {
    pub fn until_now() -> Self {
        let text = fs::read_to_string("/proc/net/rpc/nfsd").unwrap();
        // The first number of such a line says how many follow.
        let counts = |key: &str| -> Vec<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).unwrap();
            line.split(' ').skip(1).map(|count| count.parse().unwrap()).collect()
        };
        Self { requests: counts("proc4")[1], operations: counts("proc4ops") }
    }
}

/// What one call needs on average.
pub struct Needs {
    requests: f64,
    commits: f64,
    /// The operations that were made at least in every tenth call, without [`FRAME`].
    operations: String,
}

impl Needs {
    fn since(before: &Served) -> Self {
        let now = Served::until_now();
        let each = |now: u64, before: u64| (now - before) as f64 / CALLS as f64;
        let counts = NAMES.split_whitespace().zip(now.operations.iter().zip(&before.operations).skip(3));
        let made: Vec<(&str, f64)> = counts.map(|(name, (now, before))| (name, each(*now, *before))).collect();
        let commits = made.iter().find_map(|(name, count)| (*name == "COMMIT").then_some(*count)).unwrap();
        let shown = made.iter().filter(|(name, count)| *count >= 0.1 && !FRAME.contains(name));
        let operations: Vec<String> = shown.map(|(name, count)| format!("{name} {count:.1}")).collect();
        Self { requests: each(now.requests, before.requests), commits, operations: operations.join(", ") }
    }
}

/// Measures and prints.
pub async fn run(lab: &Lab) {
    let share = lab.share(Place::Xfs);
    println!("\nWhat a call asks of the server, on average of {CALLS}; {} are not shown.\n", FRAME.join(", "));
    println!("{:42} {:8} {:>8} {:>8}  operations", "", "client", "requests", "COMMIT");
    for client in CLIENTS {
        let driver = Driver::with(&["-v=0", &format!("--client={client}")]).await;
        // The first call makes what the others find.
        driver.delete(&driver.create(requests::create(&share, "first")).await.unwrap().volume_id).await.unwrap();
        let in_flight = format!("{IN_FLIGHT} in flight");
        for (how, at_once) in [("one at a time", 1), (in_flight.as_str(), IN_FLIGHT)] {
            for (call, Needs { requests, commits, operations }) in measure(&driver, &share, at_once).await {
                let row = format!("{call}, {how}");
                println!("{row:42} {client:8} {requests:>8.1} {commits:>8.1}  {operations}");
            }
        }
    }
}

/// The needs of CreateVolume, CreateSnapshot of an empty volume, and DeleteVolume. What clears the trash later is no part
/// of them.
async fn measure(driver: &Driver, share: &Share, at_once: usize) -> [(&'static str, Needs); 3] {
    share.trash_is_empty().await;
    let before = Served::until_now();
    let create = async |n| driver.create(requests::create(share, &format!("counted-{n}"))).await.unwrap().volume_id;
    let volumes: Vec<String> = stream::iter(0..CALLS).map(create).buffer_unordered(at_once).collect().await;
    let created = Needs::since(&before);
    let before = Served::until_now();
    let take = async |(n, id): (usize, &String)| {
        driver.take_whole(requests::snapshot(id, &format!("counted-{n}"))).await.unwrap().snapshot_id
    };
    let snapshots: Vec<String> =
        stream::iter(volumes.iter().enumerate()).map(take).buffer_unordered(at_once).collect().await;
    let taken = Needs::since(&before);
    for id in snapshots {
        driver.drop_snapshot(&id).await.unwrap();
    }
    share.trash_is_empty().await;
    let before = Served::until_now();
    let delete = async |id: &String| driver.delete(id).await.unwrap();
    stream::iter(&volumes).map(delete).buffer_unordered(at_once).collect::<Vec<()>>().await;
    let deleted = Needs::since(&before);
    [("CreateVolume", created), ("DeleteVolume", deleted), ("CreateSnapshot, empty", taken)]
}
