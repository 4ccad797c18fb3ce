//! The controller is killed at random times. After its restart and the retries of its callers, the export has exactly
//! the expected content.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use tonic::Status;

use crate::support::requests::{self, MIB};
use crate::support::{Driver, Lab, Place, Share, checked, csi, random};

/// The number of times that the controller is killed.
const ROUNDS: usize = 500;
/// The number of calls that run when the controller is killed.
const CALLS: usize = 6;
/// The latest time of the kill after the start of the calls: about as long as all calls take together.
const LATEST: Duration = Duration::from_millis(25);

/// A call that a caller repeats until it succeeds.
#[derive(Debug, Clone)]
enum Wish {
    Create { name: String, archived: bool, team: bool },
    Clone { name: String, of: Volume },
    Restore { name: String, of: Volume },
    Delete { id: String },
    Modify { id: String, mode: u32 },
    Expand { id: String, mib: i64 },
    Snapshot { name: String, of: Volume },
    DeleteSnapshot { id: String },
    Group { name: String, of: [Volume; 2] },
    DeleteGroup { group: Group },
}

/// The expected state of a volume, or of a snapshot of one.
#[derive(Debug, Clone, PartialEq)]
struct Volume {
    id: String,
    directory: String,
    archived: bool,
    mode: u32,
    mib: i64,
    /// The content of its file.
    text: String,
}

/// The expected state of a group of snapshots.
#[derive(Debug, Clone)]
struct Group {
    id: String,
    members: Vec<Volume>,
}

/// The expected content of the export.
#[derive(Debug, Default)]
struct World {
    volumes: BTreeMap<String, Volume>,
    snapshots: BTreeMap<String, Volume>,
    groups: BTreeMap<String, Group>,
    archives: Vec<String>,
}

impl Wish {
    fn new(
        random: &mut fastrand::Rng,
        name: String,
        volumes: &mut Vec<Volume>,
        snapshots: &mut Vec<Volume>,
        groups: &mut Vec<Group>,
    ) -> Self {
        let full = volumes.len() > 20;
        if random.u32(..8) == 0 {
            if let Some(group) = groups.pop() {
                return Self::DeleteGroup { group };
            }
            if let Some([one, two]) = volumes.last_chunk().cloned() {
                volumes.truncate(volumes.len() - 2);
                return Self::Group { name, of: [one, two] };
            }
        }
        if random.u32(..4) == 0
            && let Some(of) = snapshots.pop()
        {
            return if snapshots.len() > 5 || random.bool() {
                Self::DeleteSnapshot { id: of.id }
            } else {
                Self::Restore { name, of }
            };
        }
        let created = |random: &mut fastrand::Rng, name| Self::Create {
            name,
            archived: random.u32(..8) == 0,
            team: random.bool(),
        };
        if random.u32(..3) == 0 {
            return created(random, name);
        }
        match volumes.pop() {
            None => created(random, name),
            Some(Volume { id, .. }) if full => Self::Delete { id },
            Some(of) => match random.u32(..6) {
                0 => Self::Delete { id: of.id },
                1 => Self::Modify { id: of.id, mode: random.u32(..0o1000) | 1 },
                2 => Self::Expand { id: of.id, mib: of.mib + 1 },
                3 => Self::Clone { name, of },
                _ => Self::Snapshot { name, of },
            },
        }
    }

    /// Makes the call. Returns the ID of the object that it created.
    async fn ask(&self, driver: &Driver, share: &Share) -> Result<String, Status> {
        let copied = |name: &str, of: &Volume, source| csi::CreateVolumeRequest {
            capacity_range: requests::bytes(of.mib * MIB),
            ..requests::from(share, name, source)
        };
        let request = match self.clone() {
            Self::Create { name, archived, team } => {
                let mut request = requests::create(share, &name);
                if archived {
                    request.parameters.insert("onDelete".into(), "archive".into());
                }
                if team {
                    request.parameters.insert("subDir".into(), format!("team/{name}"));
                }
                request
            }
            Self::Clone { name, of } => copied(&name, &of, requests::of_volume(&of.id)),
            Self::Restore { name, of } => copied(&name, &of, requests::of_snapshot(&of.id)),
            Self::Delete { id } => return driver.delete(&id).await.map(|()| id),
            Self::Modify { id, mode } => {
                let request = csi::ControllerModifyVolumeRequest {
                    volume_id: id.clone(),
                    mutable_parameters: requests::map([("mountPermissions", &format!("{mode:04o}"))]),
                    ..Default::default()
                };
                return driver.controller().controller_modify_volume(request).await.map(|_| id);
            }
            Self::Expand { id, mib } => return driver.expand(&id, mib * MIB).await.map(|_| id),
            Self::Snapshot { name, of } => {
                let snapshot = driver.take_whole(requests::snapshot(&of.id, &name)).await?;
                return Ok(snapshot.snapshot_id);
            }
            Self::Group { name, of } => loop {
                let request = csi::CreateVolumeGroupSnapshotRequest {
                    name: name.clone(),
                    source_volume_ids: of.iter().map(|of| of.id.clone()).collect(),
                    ..Default::default()
                };
                let group = driver.groups().create_volume_group_snapshot(request).await?.into_inner().group_snapshot;
                if let Some(group) = group.filter(|group| group.ready_to_use) {
                    return Ok(group.group_snapshot_id);
                }
            },
            Self::DeleteGroup { group } => {
                let request = csi::DeleteVolumeGroupSnapshotRequest {
                    group_snapshot_id: group.id.clone(),
                    snapshot_ids: group.members.into_iter().map(|member| member.id).collect(),
                    ..Default::default()
                };
                return driver.groups().delete_volume_group_snapshot(request).await.map(|_| group.id);
            }
            Self::DeleteSnapshot { id } => {
                return driver.drop_snapshot(&id).await.map(|()| id);
            }
        };
        driver.create(request).await.map(|volume| volume.volume_id)
    }
}

impl World {
    /// Records that a call has succeeded and created an object with this ID.
    fn fulfilled(&mut self, wish: Wish, id: String, share: &Share) {
        let mut changed = |change: &dyn Fn(&mut Volume)| {
            change(self.volumes.values_mut().find(|volume| volume.id == id).unwrap());
        };
        match wish {
            Wish::Create { name, archived, team } => {
                let directory = if team { format!("team/{name}") } else { name.clone() };
                fs::write(share.path.join(&directory).join("text"), &name).unwrap();
                let volume = Volume { id, directory, archived, mode: 0o755, mib: 1, text: name.clone() };
                self.volumes.insert(name, volume);
            }
            Wish::Clone { name, of } | Wish::Restore { name, of } => {
                self.volumes.insert(name.clone(), Volume { id, directory: name, archived: false, ..of });
            }
            Wish::Snapshot { name, of } => drop(self.snapshots.insert(name, Volume { id, ..of })),
            Wish::Group { name, mut of } => {
                of.sort_by(|one, other| one.id.cmp(&other.id));
                let member = |(n, of): (usize, Volume)| {
                    let id = id.replace(&format!("#{name}###group"), &format!("#{name}-{n}###snapshot"));
                    Volume { id, ..of }
                };
                let members = of.into_iter().enumerate().map(member).collect();
                self.groups.insert(name, Group { id, members });
            }
            Wish::DeleteGroup { group } => self.groups.retain(|_, other| other.id != group.id),
            Wish::DeleteSnapshot { .. } => self.snapshots.retain(|_, snapshot| snapshot.id != id),
            Wish::Delete { .. } => {
                let name = self.volumes.iter().find(|(_, volume)| volume.id == id).unwrap().0.clone();
                let volume = self.volumes.remove(&name).unwrap();
                if volume.archived {
                    self.archives.push(format!("archived-{}", volume.directory));
                }
            }
            Wish::Modify { mode, .. } => changed(&|volume| volume.mode = mode),
            Wish::Expand { mib, .. } => changed(&|volume| volume.mib = mib),
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
    let mut world = World::default();
    for round in 0..ROUNDS {
        // Only one call at a time uses each object. Another test covers callers that contradict each other.
        let mut volumes: Vec<Volume> = world.volumes.values().cloned().collect();
        let mut snapshots: Vec<Volume> = world.snapshots.values().cloned().collect();
        random.shuffle(&mut volumes);
        random.shuffle(&mut snapshots);
        let mut groups: Vec<Group> = world.groups.values().cloned().collect();
        let wishes: Vec<Wish> = (0..CALLS)
            .map(|call| Wish::new(&mut random, format!("v-{round}-{call}"), &mut volumes, &mut snapshots, &mut groups))
            .collect();
        let calls = join_all(wishes.iter().map(|wish| wish.ask(&driver, &share)));
        tokio::select! {
            _answers = calls => {}
            () = tokio::time::sleep(LATEST.mul_f64(random.f64())) => {}
        }
        driver.kill();
        driver.start_again().await;
        // All callers retry at the same time.
        let answers = join_all(wishes.iter().map(|wish| wish.ask(&driver, &share))).await;
        for (wish, answer) in wishes.into_iter().zip(answers) {
            let id = answer.unwrap_or_else(|status| panic!("round {round}: {wish:?}: {status}"));
            world.fulfilled(wish, id, &share);
        }
        if round % 50 == 49 {
            eprintln!("{} rounds", round + 1);
            assert_agrees(&driver, &share, &world).await;
        }
    }
}

/// Asserts that the export has everything in `world` and nothing else.
async fn assert_agrees(driver: &Driver, share: &Share, world: &World) {
    checked::at_rest(share).await;
    let mut expected: Vec<String> = world.volumes.values().map(|volume| volume.directory.clone()).collect();
    expected.extend(world.archives.iter().cloned());
    expected.sort();
    assert_eq!(directories(share), expected);
    for volume in world.volumes.values() {
        let request = csi::ControllerGetVolumeRequest { volume_id: volume.id.clone() };
        let found = driver.controller().controller_get_volume(request).await.unwrap().into_inner().volume.unwrap();
        assert_eq!(found.capacity_bytes, volume.mib * MIB, "{volume:?}");
        assert_holds(&share.path.join(&volume.directory), volume);
    }
    let listed = driver.controller().list_snapshots(csi::ListSnapshotsRequest::default()).await.unwrap().into_inner();
    let mut ids: Vec<String> = listed.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect();
    let members = world.groups.iter().flat_map(|(name, group)| {
        group.members.iter().enumerate().map(move |(n, member)| (format!("{name}-{n}"), member))
    });
    let snapshots: Vec<(String, &Volume)> =
        world.snapshots.iter().map(|(name, snapshot)| (name.clone(), snapshot)).chain(members).collect();
    let mut expected: Vec<String> = snapshots.iter().map(|(_, snapshot)| snapshot.id.clone()).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    for (name, snapshot) in snapshots {
        assert_holds(&share.path.join(".csi-nfs/snapshots").join(format!("{name}.tree")), snapshot);
    }
}

fn assert_holds(directory: &Path, volume: &Volume) {
    assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o7777, volume.mode, "{volume:?}");
    assert_eq!(fs::read_to_string(directory.join("text")).unwrap(), volume.text, "{volume:?}");
}

/// The directories that may belong to volumes, including those below `team`.
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
