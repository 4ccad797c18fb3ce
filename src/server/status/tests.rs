//! What is told, how much of it, and how.

use super::*;
use crate::export::progress::Totals;

fn everything() -> Status {
    let figures = Figures {
        done: Totals { entries: 250, bytes: 3 << 20, vanished: 0 },
        expected: Some(1000),
        started: None,
        took: Duration::from_secs(10),
    };
    let work = Work::new("copy", "nfs:/export", "#volume#pvc-2", &figures);
    Status {
        version: "1.2.3".to_owned(),
        driver: "csi-nfs.rs".to_owned(),
        serves: vec!["controller".to_owned(), "node n1".to_owned()],
        state: "serving".to_owned(),
        at: "2026-01-31T02:00:00Z".to_owned(),
        started: "2026-01-30T02:00:00Z".to_owned(),
        settings: vec!["--mode=all".to_owned()],
        servers: vec![
            Server {
                server: "nfs".to_owned(),
                port: 2049,
                address: Some("192.0.2.7".to_owned()),
                round_trip_seconds: Some(0.5),
                since: "2026-01-31T01:00:00Z".to_owned(),
                checked: "2026-01-31T01:59:58Z".to_owned(),
                ..Server::default()
            },
            Server { server: "gone".to_owned(), port: 2049, error: Some("timed out".to_owned()), ..Server::default() },
        ],
        exports: vec![Export {
            export: "nfs:/export".to_owned(),
            client: "own".to_owned(),
            version: Some("4.2".to_owned()),
            locks: true,
            clone: Some(true),
            xattrs: Some(false),
            space: Some(Space { bytes: 1 << 40, free_bytes: 1 << 30, inodes: 10, free_inodes: 5, seconds: 7 }),
            trash: 2,
            ..Export::default()
        }],
        mounts: vec![Mounts {
            server: "192.0.2.7".to_owned(),
            version: "4.1".to_owned(),
            fallback: "true".to_owned(),
            volumes: 3,
        }],
        calls: vec![Call {
            method: "CreateVolume".to_owned(),
            volume: "pvc-2".to_owned(),
            seconds: 12.0,
            ..Call::default()
        }],
        work: vec![Work { of: vec!["nfs#export#pvc-1##".to_owned()], seconds: 11.0, ..work }],
        locks: vec![Lock {
            export: "nfs:/export".to_owned(),
            part: "pvc\n3".to_owned(),
            holder: "another controller".to_owned(),
            seconds: 4.5,
        }],
        failures: vec![Failure {
            at: "2026-01-31T01:59:00Z".to_owned(),
            method: "CreateVolume".to_owned(),
            volume: "pvc-9".to_owned(),
            code: "Unavailable".to_owned(),
            message: "NFS server gone is not reachable".to_owned(),
            seconds: 2.0,
        }],
        left_out: 0,
    }
}

#[test]
fn a_person_reads_one_line_for_each_thing() {
    assert_eq!(
        everything().print(Format::Text),
        "csi-nfs 1.2.3, driver csi-nfs.rs, serves controller and node n1
serving since 2026-01-30T02:00:00Z; this is of 2026-01-31T02:00:00Z

servers:
  nfs port 2049: answers at 192.0.2.7 in 500.0 ms, since 2026-01-31T01:00:00Z, checked 2026-01-31T01:59:58Z
  gone port 2049: DOES NOT ANSWER, since , checked : timed out

exports:
  nfs:/export: version 4.2 by the driver's own client, clone yes, xattrs no, locks shared, 1.0 GiB of 1.0 TiB and 5 of 10 inodes free 7 s ago, \
         2 in the trash

mounts on this node:
  192.0.2.7: 3 volumes, version 4.1, lower than wanted

calls under way:
  12.0 s: CreateVolume pvc-2

copies and other long work:
  11 s: copy #volume#pvc-2 of nfs#export#pvc-1## on nfs:/export: 250 of 1000 entries, 3.0 MiB in 10s (25 entries/s, \
         307.2 KiB/s), about 30s left

locks waited for:
  4.5 s: pvc\\n3 on nfs:/export, held by another controller

last failures:
  2026-01-31T01:59:00Z CreateVolume pvc-9: Unavailable after 2.0 s: NFS server gone is not reachable
"
    );
    let idle = Status::default().print(Format::Text);
    assert_eq!(idle.matches(": none\n").count(), 7, "{idle}");
}

#[test]
fn json_is_one_object_that_reads_back_as_what_was_told() {
    let printed = everything().print(Format::Json);
    assert_eq!(printed.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Status>(&printed).unwrap(), everything());
    let value: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(value["work"][0]["entriesExpected"], 1000);
    assert_eq!(value["exports"][0]["space"]["freeBytes"], 1 << 30);
    assert_eq!(value["exports"][0]["acls"], serde_json::Value::Null, "what is not known is not told");
}

#[tokio::test]
async fn a_list_is_cut_after_the_longest_and_says_how_much_is_missing() {
    let board = Arc::new(Board::default());
    board.add(|status| {
        let call = |n: usize| Call { seconds: n as f64, ..Call::default() };
        status.calls.extend((0..LISTED + 7).map(call));
    });
    let told = board.tell().await.unwrap();
    assert_eq!((told.calls.len(), told.left_out), (LISTED, 7));
    assert_eq!(told.calls[0].seconds, (LISTED + 6) as f64);
    assert!(told.print(Format::Text).ends_with("\n7 more entries are left out\n"));
}

#[tokio::test]
async fn an_answer_does_not_wait_for_a_part_that_is_stuck() {
    let board = Arc::new(Board::default());
    let (finish, finished) = std::sync::mpsc::channel::<()>();
    let finished = Mutex::new(finished);
    board.add(move |_| assert!(finished.lock().unwrap().recv().is_err(), "the test ends it"));
    let begun = std::time::Instant::now();
    assert_eq!(board.tell().await, None);
    assert!(begun.elapsed() < 2 * LIMIT, "{:?}", begun.elapsed());
    drop(finish);
}

#[test]
fn a_name_from_outside_is_short_and_on_one_line() {
    assert_eq!(short("a\nb\u{9b}"), "a\\nb\\u{9b}");
    assert_eq!(short(&"é".repeat(200)).chars().count(), NAME_MAX / 2);
}
