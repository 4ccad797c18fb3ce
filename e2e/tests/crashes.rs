//! The controller is killed at random times, again and again: after its restart and the caller's retries the export holds
//! exactly what it should.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use tonic::Status;

use crate::support::requests::{self, MIB};
use crate::support::{Code, Driver, Lab, Place, Share, checked, csi, random};

/// How often the controller is killed.
const ROUNDS: usize = 500;
/// Calls under way when it is.
const CALLS: usize = 6;
/// It is killed at the latest so long after they began: about as long as they take together.
const LATEST: Duration = Duration::from_millis(25);

/// What a caller wants, and asks for until it has it.
#[derive(Debug, Clone)]
enum Wish {
    Create { name: String, archived: bool, team: bool },
    Delete { id: String },
    Modify { id: String, mode: u32 },
    Expand { id: String, mib: i64 },
}

/// A volume as it should be.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    id: String,
    directory: String,
    archived: bool,
    mode: u32,
    mib: i64,
}

impl Wish {
    fn ask<'a>(&self, driver: &'a Driver, share: &'a Share) -> BoxFuture<'a, Result<(), Status>> {
        match self.clone() {
            Self::Create { name, archived, team } => {
                let mut request = requests::create(share, &name);
                if archived {
                    request.parameters.insert("onDelete".into(), "archive".into());
                }
                if team {
                    request.parameters.insert("subDir".into(), format!("team/{name}"));
                }
                async move { driver.create(request).await.map(drop) }.boxed()
            }
            Self::Delete { id } => async move { driver.delete(&id).await }.boxed(),
            Self::Modify { id, mode } => async move {
                let request = csi::ControllerModifyVolumeRequest {
                    volume_id: id,
                    mutable_parameters: requests::map([("mountPermissions", &format!("{mode:04o}"))]),
                    ..Default::default()
                };
                driver.controller().controller_modify_volume(request).await.map(drop)
            }
            .boxed(),
            Self::Expand { id, mib } => async move { driver.expand(&id, mib * MIB).await.map(drop) }.boxed(),
        }
    }

    /// What there is once it is fulfilled.
    fn fulfil(self, share: &Share, volumes: &mut BTreeMap<String, Expected>, archives: &mut Vec<String>) {
        let changed = |volumes: &mut BTreeMap<String, Expected>, id: &str, change: &dyn Fn(&mut Expected)| {
            change(volumes.values_mut().find(|volume| volume.id == id).unwrap());
        };
        match self {
            Self::Create { name, archived, team } => {
                let base = share.share.trim_start_matches('/');
                let directory = if team { format!("team/{name}") } else { name.clone() };
                let uuid = if team { name.as_str() } else { "" };
                let policy = if archived { "archive" } else { "" };
                let id = format!("{}#{base}#{directory}#{uuid}#{policy}", share.server);
                volumes.insert(name, Expected { id, directory, archived, mode: 0o755, mib: 1 });
            }
            Self::Delete { id } => {
                let name = volumes.iter().find(|(_, volume)| volume.id == id).unwrap().0.clone();
                let volume = volumes.remove(&name).unwrap();
                if volume.archived {
                    archives.push(format!("archived-{}", volume.directory));
                }
            }
            Self::Modify { id, mode } => changed(volumes, &id, &|volume| volume.mode = mode),
            Self::Expand { id, mib } => changed(volumes, &id, &|volume| volume.mib = mib),
        }
    }
}

#[tokio::test]
async fn a_controller_that_is_killed_at_any_time_leaves_nothing_half_made_and_loses_nothing() {
    let lab = Lab::enter().await;
    let mut random = random::seeded();
    let share = lab.share(Place::Xfs);
    let export = format!("--export={}:{}", share.server, share.share);
    let mut driver = Driver::with(&["--mode=controller", "-v=0", &export]).await;
    let (mut volumes, mut archives) = (BTreeMap::<String, Expected>::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut free: Vec<Expected> = volumes.values().cloned().collect();
        random.shuffle(&mut free);
        let wishes: Vec<Wish> = (0..CALLS)
            .map(|call| match free.pop() {
                Some(volume) if free.len() > 20 || random.u32(..10) < 4 => Wish::Delete { id: volume.id },
                Some(volume) if random.bool() => Wish::Modify { id: volume.id, mode: random.u32(..0o1000) | 1 },
                Some(volume) if random.bool() => Wish::Expand { id: volume.id, mib: volume.mib + 1 },
                _ => Wish::Create {
                    name: format!("v-{round}-{call}"),
                    archived: random.u32(..8) == 0,
                    team: random.bool(),
                },
            })
            .collect();
        let calls = join_all(wishes.iter().map(|wish| wish.ask(&driver, &share)));
        let killed = tokio::time::sleep(LATEST.mul_f64(random.f64()));
        tokio::select! {
            _answers = calls => {}
            () = killed => {}
        }
        driver.kill();
        driver.start_again().await;
        // The caller's retries, all at once again.
        let answers = join_all(wishes.iter().map(|wish| wish.ask(&driver, &share))).await;
        for (wish, answer) in wishes.into_iter().zip(answers) {
            answer.unwrap_or_else(|status| panic!("round {round}: {wish:?}: {status}"));
            wish.fulfil(&share, &mut volumes, &mut archives);
        }
        if round % 50 == 49 {
            eprintln!("{} rounds", round + 1);
            assert_agrees(&driver, &share, &volumes, &archives).await;
        }
    }
}

/// The export holds these volumes and archives, and nothing else.
async fn assert_agrees(driver: &Driver, share: &Share, volumes: &BTreeMap<String, Expected>, archives: &[String]) {
    share.trash_is_empty().await;
    checked::agrees(share);
    let mut expected: Vec<String> = volumes.values().map(|volume| volume.directory.clone()).collect();
    expected.extend(archives.iter().cloned());
    expected.sort();
    assert_eq!(directories(share), expected);
    for volume in volumes.values() {
        let request = csi::ControllerGetVolumeRequest { volume_id: volume.id.clone() };
        let found = driver.controller().controller_get_volume(request).await.unwrap().into_inner().volume.unwrap();
        assert_eq!(found.capacity_bytes, volume.mib * MIB, "{volume:?}");
        assert_eq!(mode(share, &volume.directory), volume.mode, "{volume:?}");
    }
    let unknown = driver.expand(&format!("{}#{}#never##", share.server, &share.share[1..]), MIB).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

/// The directories that volumes may be, also below `team`.
fn directories(share: &Share) -> Vec<String> {
    let mut all = Vec::new();
    for name in share.names() {
        match name.as_str() {
            "team" | "archived-team" => {
                let below = fs::read_dir(share.path.join(&name)).unwrap();
                all.extend(below.map(|entry| format!("{name}/{}", entry.unwrap().file_name().to_str().unwrap())));
            }
            _ => all.push(name),
        }
    }
    all.sort();
    all
}

fn mode(share: &Share, directory: &str) -> u32 {
    fs::metadata(share.path.join(directory)).unwrap().permissions().mode() & 0o7777
}
