//! Which volumes have which directories. Volumes may share a directory on purpose, but no volume is created inside
//! another volume's directory.
//!
//! The volumes are known by their records and by their claims on directories (`claims.rs`). Beside the claims are the
//! kept records of deleted volumes whose directory was kept (`kept.rs`). They are not claims and do not prevent a new
//! volume, but a deletion reads them.
//!
//! The caller holds the volume's lock (`lock.rs`).

use std::time::Duration;

use tokio::join;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::export::fs::{Fs, Name, Status};
use crate::export::locks::Guard;
use crate::export::{Export, SMALL};
use crate::nfs::source::SubDir;
use crate::volume::claims::{self, Entries, Way};
use crate::volume::directory;
use crate::volume::id::VolumeName;
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// How long nobody tries whether one request shows all of `.csi-nfs/paths` after one did not.
const MANY_PATHS: Duration = Duration::from_secs(60);

/// The volumes whose directories overlap with a given directory.
pub struct Neighbours<F: Fs> {
    /// Another volume with the same directory.
    pub same: Option<Neighbour>,
    /// A volume whose directory contains the given one.
    pub above: Option<VolumeName>,
    /// A volume whose directory is inside the given one.
    pub below: Option<VolumeName>,
    /// The deleted volumes for which the given directory was kept, including the volume that the search is for.
    pub kept: Vec<VolumeName>,
    /// A directory that contains the given one and was kept when its volume was deleted.
    pub kept_above: Option<SubDir>,
    /// An existing directory inside the given one that was kept when its volume was deleted.
    pub kept_below: Option<SubDir>,
    /// The way to the given directory's claims.
    pub way: Way<F>,
}

impl<F: Fs> Default for Neighbours<F> {
    fn default() -> Self {
        let (same, above, below, kept, kept_above, kept_below) = Default::default();
        Self { same, above, below, kept, kept_above, kept_below, way: Way::default() }
    }
}

/// Another volume with the same directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The volume's name.
    pub name: VolumeName,
    /// Whether the volume is still being filled.
    pub pending: bool,
    /// Whether the directory existed, with content, before its first volume.
    pub adopted: bool,
}

impl Neighbour {
    fn new(name: VolumeName, record: &Record) -> Self {
        Self { name, pending: record.pending, adopted: record.adopted }
    }
}

impl<F: Fs> Neighbours<F> {
    /// Returns [`Error::Precondition`] if the directory is inside another volume's directory or contains one.
    pub fn check_nesting(&self, sub_dir: &SubDir) -> Result<()> {
        let relation = match (&self.above, &self.below) {
            (Some(other), _) => format!("it is inside the directory of volume {other}"),
            (_, Some(other)) => format!("volume {other} is inside it"),
            (None, None) => return Ok(()),
        };
        Err(Error::Precondition(format!("directory `{sub_dir}` cannot be a volume of its own: {relation}")))
    }

    /// Returns [`Error::Conflict`] if another volume is being filled in the directory.
    pub fn check_filled(&self, sub_dir: &SubDir) -> Result<()> {
        let Some(Neighbour { name, pending: true, .. }) = &self.same else { return Ok(()) };
        Err(Error::conflict(
            format!("directory `{sub_dir}`"),
            format!("volume {name} is being filled there; call again when that is done, or delete volume {name}"),
        ))
    }
}

/// Finds the volumes, other than `me`, whose directories are `sub_dir`, contain it, or are inside it. `lock` is that of
/// the volume: the volumes of one directory that are changed at the same time look once at what is above them.
pub async fn neighbours<F: Fs>(
    export: &Export<F>,
    sub_dir: &SubDir,
    me: Option<&VolumeName>,
    lock: &Guard<F>,
) -> Result<Neighbours<F>> {
    export.despite_removals(|| find_neighbours(export, sub_dir, me, lock)).await
}

/// The record of the volume `name`, and its [`neighbours`] in the directory `sub_dir`: all that a call asks for under its lock,
/// in one request where that is enough.
pub async fn record_and_neighbours<F: Fs>(
    export: &Export<F>,
    name: &VolumeName,
    sub_dir: &SubDir,
    lock: &Guard<F>,
) -> (Result<Option<Record>>, Result<Neighbours<F>>) {
    if sub_dir.as_str() == name.as_str() {
        match alone(export, name).await {
            Ok(Some((record, neighbours))) => return (Ok(record), Ok(neighbours)),
            Ok(None) => {}
            Err(error) => return (Err(error), Ok(Neighbours::default())),
        }
    }
    join!(Record::read(export, name), neighbours(export, sub_dir, Some(name), lock))
}

/// The record of a volume whose directory has its name, if the same request shows that nobody has a claim on the directory or
/// on one in it, and that it was not kept. After `None`, [`claims::read`] and [`Record::read`] tell.
async fn alone<F: Fs>(export: &Export<F>, name: &VolumeName) -> Result<Option<(Option<Record>, Neighbours<F>)>> {
    let Some(layout) = export.layout().await?.filter(|_| export.many_paths.within(MANY_PATHS).is_none()) else {
        return Ok(None);
    };
    let (looked, file, names) = (Instant::now(), Record::file(name)?, claims::names(name.file("")?));
    let file = (Record::directory(&layout), &file, SMALL);
    let record = match export.fs().read_file_if_lacking(file, (&layout.paths, &names)).await {
        Ok(Some(Ok(bytes))) => Some(Record::decode(name, &bytes)?),
        Ok(Some(Err(Status::NoEnt))) => None,
        // Other errors are those of the single requests, too.
        _ => {
            export.many_paths.record(looked);
            return Ok(None);
        }
    };
    let way = Way { nodes: vec![layout.paths.clone()], own: Vec::new() };
    Ok(Some((record, Neighbours { way, ..Neighbours::default() })))
}

async fn find_neighbours<F: Fs>(
    export: &Export<F>,
    sub_dir: &SubDir,
    me: Option<&VolumeName>,
    lock: &Guard<F>,
) -> Result<Neighbours<F>> {
    let mut found = Neighbours::default();
    let Some(layout) = export.layout().await? else { return Ok(found) };
    let nested = sub_dir.names().count() > 1;
    if !(nested && lock.is_free(sub_dir.first()))
        && let Ok(first) = VolumeName::parse("subDir", sub_dir.first())
        && me != Some(&first)
        && let Some(record) = Record::read(export, &first).await?.filter(|record| record.id.uuid.is_none())
    {
        if nested {
            found.above = Some(first);
        } else if record.backing_snapshot.is_none() {
            found.same = Some(Neighbour::new(first, &record));
        }
    }
    let mut dir = layout.paths.clone();
    let mut path = String::new();
    for name in sub_dir.names() {
        path = join(&path, &name);
        let here = SubDir::parse("subDir", &path)?;
        let free = here != *sub_dir && lock.is_free(&path);
        let mut entries = match free {
            true => Entries::none(claims::node(export, &dir, &name).await?),
            false => claims::read(export, &dir, &name).await?,
        };
        found.way.nodes.push(dir);
        if here == *sub_dir {
            let live = live(export, &entries, &here, me, |record| record.backing_snapshot.is_none()).await?;
            found.same = found.same.or(live);
            found.kept = entries.kept;
            entries.claims.retain(|claim| me == Some(&claim.volume));
            found.way.own = entries.claims;
        } else {
            let live = live(export, &entries, &here, me, |_| true).await?;
            found.above = found.above.or(live.map(|live| live.name));
            let none = found.above.is_none() && entries.claims.is_empty() && entries.kept.is_empty();
            if none && me.is_none_or(|me| me.as_str() != path) {
                lock.found_free(&path);
            }
            found.kept_above = found.kept_above.or((!entries.kept.is_empty()).then_some(here));
        }
        let Some(node) = entries.node else { return Ok(found) };
        dir = node;
    }
    found.way.nodes.push(dir.clone());
    below(export, dir, sub_dir, me, &mut found).await?;
    Ok(found)
}

/// Whether a volume that has the directory `sub_dir` already adopted it.
pub async fn is_adopted<F: Fs>(export: &Export<F>, sub_dir: &SubDir, neighbours: &Neighbours<F>) -> Result<bool> {
    let Some(first) = &neighbours.same else { return Ok(false) };
    if first.adopted {
        return Ok(true);
    }
    let layout = export.make_layout().await?;
    let (above, last) = directory::split(sub_dir)?;
    let Some(above) = export.find_dir(&layout.paths, above).await? else { return Ok(false) };
    for claim in claims::read(export, &above, &last).await?.claims {
        let record = Record::read(export, &claim.volume).await?;
        if record.is_some_and(|record| record.id.sub_dir == *sub_dir && record.adopted) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A volume with a claim on `sub_dir`, according to the `entries` that it has. Skips the volume `me` and volumes whose
/// records do not `count`, and removes claims without a record.
async fn live<F: Fs>(
    export: &Export<F>,
    entries: &Entries<F>,
    sub_dir: &SubDir,
    me: Option<&VolumeName>,
    count: impl Fn(&Record) -> bool,
) -> Result<Option<Neighbour>> {
    for claim in entries.claims.iter().filter(|claim| me != Some(&claim.volume)) {
        match Record::read(export, &claim.volume).await? {
            Some(record) if record.id.sub_dir != *sub_dir => claim.remove(export).await?,
            Some(record) if count(&record) => return Ok(Some(Neighbour::new(claim.volume.clone(), &record))),
            Some(_) => {}
            None => claim.remove(export).await?,
        }
    }
    Ok(None)
}

/// Adds to `found` a volume with a claim below `node`, and a directory that was kept there.
async fn below<F: Fs>(
    export: &Export<F>,
    node: F::Handle,
    sub_dir: &SubDir,
    me: Option<&VolumeName>,
    found: &mut Neighbours<F>,
) -> Result<()> {
    let mut open = vec![(node, sub_dir.as_str().to_owned())];
    while let Some((node, path)) = open.pop() {
        for name in claims::inside(export, &node).await? {
            let path = join(&path, &name);
            let Ok(here) = SubDir::parse("subDir", &path) else { continue };
            let entries = claims::read(export, &node, &name).await?;
            if let Some(live) = live(export, &entries, &here, me, |_| true).await? {
                found.below = Some(live.name);
                return Ok(());
            }
            if !entries.kept.is_empty() && export.find_dir(&export.fs().root(), here.names()).await?.is_some() {
                found.kept_below = Some(here);
            }
            open.extend(entries.node.map(|node| (node, path)));
        }
    }
    Ok(())
}

fn join(path: &str, name: &Name) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::crash_harness::connect;
    use crate::testing::memory::{MemoryServer, Node};
    use crate::testing::volume_crashes::create;
    use crate::volume::id::VolumeId;
    use crate::volume::lock::lock;
    use crate::volume::parameters::Attributes;

    #[tokio::test(start_paused = true)]
    async fn calls_for_volumes_side_by_side_look_once_at_what_is_above_them_while_nobody_can_change_it() {
        let server = MemoryServer::new();
        let (one, two) = (connect(&server), connect(&server));
        let [a, b] = ["team/a#a", "team/b#b"].map(|id| VolumeId::parse(&format!("nfs#export#{id}#")).unwrap());
        let found = async |id: &VolumeId, lock: &Guard<_>| {
            let before = one.fs().operations();
            let found = neighbours(&one, &id.sub_dir, id.uuid.as_ref(), lock).await.unwrap();
            (found.above.map(|above| above.to_string()), one.fs().operations() - before)
        };
        let locks = (lock(&one, &a).await.unwrap(), lock(&one, &b).await.unwrap());
        let (first, second) = (found(&a, &locks.0).await, found(&b, &locks.1).await);
        assert!(first.0.is_none() && second.0.is_none() && second.1 < first.1, "{first:?}, {second:?}");
        drop(locks);
        create(&two, "t", Some("team"), 0, Attributes::default()).await.unwrap();
        let again = lock(&one, &a).await.unwrap();
        assert_eq!(found(&a, &again).await.0.as_deref(), Some("t"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_look_is_enough_while_few_directories_have_claims_and_the_volumes_own_has_none() {
        let server = MemoryServer::new();
        let (one, two) = (connect(&server), connect(&server));
        let id = VolumeId::parse("nfs#export#v##").unwrap();
        let name = id.name().unwrap();
        let look = async || {
            let (lock, before) = (lock(&one, &id).await.unwrap(), one.fs().operations());
            let (record, found) = record_and_neighbours(&one, &name, &id.sub_dir, &lock).await;
            let (operations, found) = (one.fs().operations() - before, found.unwrap());
            (record.unwrap().is_some(), found.same.map(|same| same.name.to_string()), operations)
        };
        create(&two, "v", None, 0, Attributes::default()).await.unwrap();
        let alone = look().await;
        assert_eq!((alone.0, &alone.1), (true, &None));
        for number in 0..40 {
            server.plant(format!(".csi-nfs/paths/{number}"), Node::directory(0o700)).unwrap();
        }
        let (first, then) = (look().await, look().await);
        assert!(first.2 > then.2 && then.2 > alone.2, "{alone:?}, {first:?}, {then:?}");
        for number in 0..40 {
            server.remove(format!(".csi-nfs/paths/{number}")).unwrap();
        }
        create(&two, "t", Some("v"), 0, Attributes::default()).await.unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        let shared = look().await;
        assert_eq!((shared.0, shared.1.as_deref()), (true, Some("t")));
    }
}
