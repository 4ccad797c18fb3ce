//! Checks of exports that have other file systems inside them, and what a check costs.

use super::*;
use crate::testing::crash_harness::{connect, reach};
use crate::testing::memory::{MemoryServer, Node};
use crate::testing::volume_crashes::create;
use crate::volume::parameters::Attributes;

/// The findings of a check in which each lookup of `name` finds another file system.
async fn with_another_file_system_at(server: &MemoryServer, name: &str) -> Vec<Finding> {
    let counting = reach(server);
    check(&counting).await.unwrap();
    let lookup = format!("lookup {name}");
    let lookups: Vec<u64> =
        (0..).zip(counting.fs().history()).filter(|(_, op)| *op == lookup).map(|(n, _)| n).collect();
    assert!(!lookups.is_empty(), "nothing looks up {name}");
    let export = reach(server);
    // A lookup that fails saves later operations, so the lookups come earlier with each.
    let mut failed = Vec::new();
    loop {
        let export = reach(server);
        failed.iter().for_each(|n| export.fs().fail_at(*n, Status::XDev));
        drop(check(&export).await.unwrap());
        let next = (0..).zip(export.fs().history()).find(|(n, op)| *op == lookup && !failed.contains(n));
        match next {
            Some((n, _)) => failed.push(n),
            None => break,
        }
    }
    failed.iter().for_each(|n| export.fs().fail_at(*n, Status::XDev));
    check(&export).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn another_file_system_inside_the_export_is_told_of_and_the_check_goes_on() {
    let server = MemoryServer::new();
    let export = connect(&server);
    create(&export, "v", None, 1000, Attributes::default()).await.unwrap();
    create(&export, "w", Some("team/app"), 1000, Attributes::default()).await.unwrap();
    for directory in [".snapshot", "unknown", "team/mounted"] {
        server.plant(directory, Node::directory(0o755)).unwrap();
    }
    server.plant(".csi-nfs/staging/half", Node::directory(0o700)).unwrap();
    let other = |directory: &str| Finding::OtherFileSystem { directory: directory.to_owned() };
    let unrecorded = |directory: &str| Finding::DirectoryUnrecorded { directory: directory.to_owned() };
    let half = Finding::StagingLeftover { entry: "half".to_owned() };
    for (at, found) in [
        (".snapshot", vec![unrecorded("team/mounted"), unrecorded("unknown"), other(".snapshot"), half.clone()]),
        ("mounted", vec![unrecorded(".snapshot"), unrecorded("unknown"), other("team/mounted"), half.clone()]),
        // The directory of a recorded volume.
        (
            "v",
            vec![unrecorded(".snapshot"), unrecorded("team/mounted"), unrecorded("unknown"), other("v"), half.clone()],
        ),
    ] {
        let mut found = found;
        found.sort();
        assert_eq!(with_another_file_system_at(&server, at).await, found, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_costs_in_step_with_what_is_there() {
    let mut costs = Vec::new();
    for volumes in [100, 200, 400] {
        let server = MemoryServer::new();
        let export = connect(&server);
        for n in 0..volumes {
            create(&export, &format!("v{n}"), Some(&format!("team{}/v{n}", n % 7)), 1000, Attributes::default())
                .await
                .unwrap();
        }
        let checking = reach(&server);
        assert_eq!(check(&checking).await.unwrap(), []);
        costs.push(checking.fs().operations());
    }
    let (first, second) = (costs[1] - costs[0], costs[2] - costs[1]);
    assert!(second <= 2 * first + 20, "{costs:?}");
}
