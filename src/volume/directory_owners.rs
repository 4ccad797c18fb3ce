//! Which volumes have which directories. Volumes may share a directory on purpose, but no volume is created inside
//! another volume's directory.
//!
//! A volume whose directory has the volume's name needs no claim: its record is enough. A volume with a `subDir` has a
//! claim, the empty file `.csi-nfs/paths/SUBDIR/#/NAME`. (`#` cannot be a component of a `subDir`.) A claim is written
//! before the record and removed after it. So a claim without a record is left from a crash, means nothing, and is
//! removed.
//!
//! Beside the claims are the kept records of deleted volumes whose directory was kept (`kept.rs`). They are not claims
//! and do not prevent a new volume, but a deletion reads them.
//!
//! The caller holds the volume's lock (`lock.rs`): alone on the directory, shared on those above it. So all that is
//! written here of the directory itself, above it and below it stays as it is, and only volumes side by side come and
//! go.

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Kind, Name, Status};
use crate::nfs::source::SubDir;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::record::Record;
use crate::volume::record_file::RecordFile as _;

/// The suffix of a kept record's file. No volume's name contains `#`, so no claim has this suffix.
const KEPT: &str = "#kept";

/// The file name of the kept record of the deleted volume `name`.
pub fn kept_file(name: &VolumeName) -> Result<Name> {
    name.file(KEPT)
}

/// The deleted volume whose kept record `file` is; `None` for a claim.
pub fn kept_volume(file: &Name) -> Option<VolumeName> {
    VolumeName::of_file(file, KEPT)
}

/// The volumes whose directories overlap with a given directory.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Neighbours {
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

impl Neighbours {
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

/// Finds the volumes, other than `me`, whose directories are `sub_dir`, contain it, or are inside it.
pub async fn neighbours<F: Fs>(export: &Export<F>, sub_dir: &SubDir, me: Option<&VolumeName>) -> Result<Neighbours> {
    export.despite_removals(|| find_neighbours(export, sub_dir, me)).await
}

async fn find_neighbours<F: Fs>(export: &Export<F>, sub_dir: &SubDir, me: Option<&VolumeName>) -> Result<Neighbours> {
    let mut found = Neighbours::default();
    let Some(layout) = export.layout().await? else { return Ok(found) };
    let nested = sub_dir.names().count() > 1;
    if let Ok(first) = VolumeName::parse("subDir", sub_dir.first())
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
        let Some(next) = export.find_dir(&dir, [name.clone()]).await? else { return Ok(found) };
        dir = next;
        path = join(&path, &name);
        let here = SubDir::parse("subDir", &path)?;
        if here == *sub_dir {
            let owners = owners(export, &dir, &here, me, |record| record.backing_snapshot.is_none()).await?;
            found.same = found.same.or(owners.live);
            found.kept = owners.kept;
        } else {
            let owners = owners(export, &dir, &here, me, |_| true).await?;
            found.above = found.above.or(owners.live.map(|live| live.name));
            found.kept_above = found.kept_above.or((!owners.kept.is_empty()).then_some(here));
        }
    }
    below(export, dir, sub_dir, me, &mut found).await?;
    Ok(found)
}

/// Whether a volume that has the directory `sub_dir` already adopted it.
pub async fn is_adopted<F: Fs>(export: &Export<F>, sub_dir: &SubDir, neighbours: &Neighbours) -> Result<bool> {
    let Some(first) = &neighbours.same else { return Ok(false) };
    if first.adopted {
        return Ok(true);
    }
    let layout = export.make_layout().await?;
    let path = sub_dir.names().chain([claims_dir()?]);
    let Some(claims) = export.find_dir(&layout.paths, path).await? else { return Ok(false) };
    for name in export.names(&claims).await?.iter().filter_map(|entry| VolumeName::of_file(entry, "")) {
        let record = Record::read(export, &name).await?;
        if record.is_some_and(|record| record.id.sub_dir == *sub_dir && record.adopted) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The owners of a directory.
#[derive(Default)]
struct Owners {
    /// A volume with a claim on the directory.
    live: Option<Neighbour>,
    /// The deleted volumes for which the directory was kept.
    kept: Vec<VolumeName>,
}

/// Reads the owners of `sub_dir` from `node`, its node below `paths`. Skips the volume `me` and volumes whose records
/// do not `count`, and removes claims without a record.
async fn owners<F: Fs>(
    export: &Export<F>,
    node: &F::Handle,
    sub_dir: &SubDir,
    me: Option<&VolumeName>,
    count: impl Fn(&Record) -> bool,
) -> Result<Owners> {
    let mut owners = Owners::default();
    let Some(claims) = export.find_dir(node, [claims_dir()?]).await? else { return Ok(owners) };
    for entry in export.names(&claims).await? {
        owners.kept.extend(kept_volume(&entry));
        let Some(name) = VolumeName::of_file(&entry, "").filter(|name| me != Some(name)) else { continue };
        if owners.live.is_some() {
            continue;
        }
        match Record::read(export, &name).await? {
            Some(record) if record.id.sub_dir == *sub_dir => {
                owners.live = count(&record).then(|| Neighbour::new(name, &record));
            }
            _ => remove(export, &claims, &entry, false).await?,
        }
    }
    Ok(owners)
}

/// Adds to `found` a volume with a claim below `node`, and a directory that was kept there.
async fn below<F: Fs>(
    export: &Export<F>,
    node: F::Handle,
    sub_dir: &SubDir,
    me: Option<&VolumeName>,
    found: &mut Neighbours,
) -> Result<()> {
    let mut open = vec![(node, sub_dir.as_str().to_owned())];
    while let Some((node, path)) = open.pop() {
        for name in export.names(&node).await? {
            if name == claims_dir()? {
                continue;
            }
            let Some((child, attr)) = export.find(&node, &name).await? else { continue };
            let path = join(&path, &name);
            let Ok(here) = SubDir::parse("subDir", &path) else { continue };
            if attr.kind != Kind::Directory {
                continue;
            }
            let owners = owners(export, &child, &here, me, |_| true).await?;
            if let Some(live) = owners.live {
                found.below = Some(live.name);
                return Ok(());
            }
            if !owners.kept.is_empty() && export.find_dir(&export.fs().root(), here.names()).await?.is_some() {
                found.kept_below = Some(here);
            }
            open.push((child, path));
        }
    }
    Ok(())
}

/// Writes the claim of a volume on its directory, if the volume needs one.
pub async fn claim<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<()> {
    let (sub_dir, Some(name)) = (&id.sub_dir, &id.uuid) else { return Ok(()) };
    let claims = make_node(export, sub_dir).await?;
    match export.fs().create(&claims, &name.file("")?, 0o600).await {
        Ok(_) | Err(Status::Exist) => Ok(()),
        Err(status) => Err(export.failed(format!("claiming directory `{sub_dir}`"), status)),
    }
}

/// Returns the directory that holds the claims on `sub_dir`, and creates it if it is missing.
pub(super) async fn make_node<F: Fs>(export: &Export<F>, sub_dir: &SubDir) -> Result<F::Handle> {
    let layout = export.make_layout().await?;
    export.make_dirs(&layout.paths, sub_dir.names().chain([claims_dir()?]), 0o700).await
}

/// Removes the claim of a volume on its directory, if the volume needed one.
pub async fn release<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<()> {
    match &id.uuid {
        Some(name) => remove_entry(export, &id.sub_dir, &name.file("")?).await,
        None => Ok(()),
    }
}

/// Removes a claim or a kept record on `sub_dir`, and the nodes that are empty then.
pub async fn remove_entry<F: Fs>(export: &Export<F>, sub_dir: &SubDir, entry: &Name) -> Result<()> {
    export.despite_removals(|| remove_with_nodes(export, sub_dir, entry)).await
}

async fn remove_with_nodes<F: Fs>(export: &Export<F>, sub_dir: &SubDir, entry: &Name) -> Result<()> {
    let Some(layout) = export.layout().await? else { return Ok(()) };
    let mut nodes = vec![layout.paths.clone()];
    let mut steps: Vec<Name> = Vec::new();
    for step in sub_dir.names().chain([claims_dir()?]) {
        let Some(parent) = nodes.last() else { return Ok(()) };
        let Some(node) = export.find_dir(parent, [step.clone()]).await? else { break };
        nodes.push(node);
        steps.push(step);
    }
    if let Some(claims) = nodes.last().filter(|_| nodes.len() == sub_dir.names().count() + 2) {
        remove(export, claims, entry, false).await?;
    }
    nodes.pop();
    for (parent, step) in nodes.iter().zip(&steps).rev() {
        remove(export, parent, step, true).await?;
    }
    Ok(())
}

/// Removes a file, or a directory if it is empty. Succeeds if there is none.
async fn remove<F: Fs>(export: &Export<F>, dir: &F::Handle, name: &Name, is_dir: bool) -> Result<()> {
    let removed = if is_dir { export.fs().rmdir(dir, name).await } else { export.fs().unlink(dir, name).await };
    match removed {
        Ok(()) | Err(Status::NoEnt | Status::NotEmpty) => Ok(()),
        Err(status) => Err(export.failed(format!("removing `{name}` below `.csi-nfs/paths`"), status)),
    }
}

fn join(path: &str, name: &Name) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}/{name}") }
}

pub(super) fn claims_dir() -> Result<Name> {
    Name::new("#").map_err(|status| Error::Internal(status.to_string()))
}
