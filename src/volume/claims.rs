//! Which volumes have which directories: kept so that volumes may share a directory on purpose, but are never made inside
//! one another.
//!
//! A volume whose directory is named after it needs no claim, its record tells. One with a `subDir` of its own has an
//! empty file `.csi-nfs/paths/SUBDIR/#/NAME`; `#` cannot be a component of a `subDir`. A claim is written before the
//! record and removed after it, so that one without a record is left from a crash, means nothing, and is cleared away.
//!
//! The caller holds the lock of the directory's first component.

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::fs::{Fs, Kind, Name, Status};
use crate::nfs::source::SubDir;
use crate::volume::id::{VolumeId, VolumeName};
use crate::volume::record::Record;

/// The volumes whose directories have to do with a given one.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Neighbours {
    /// Another volume with the very same directory.
    pub same: Option<VolumeName>,
    /// A volume whose directory is above.
    pub above: Option<VolumeName>,
    /// A volume whose directory is below.
    pub below: Option<VolumeName>,
}

impl Neighbours {
    /// Refuses a directory inside, or around, another volume's.
    pub fn check_nesting(&self, sub_dir: &SubDir) -> Result<()> {
        let relation = match (&self.above, &self.below) {
            (Some(other), _) => format!("it is inside the directory of volume {other}"),
            (_, Some(other)) => format!("volume {other} is inside it"),
            (None, None) => return Ok(()),
        };
        Err(Error::Precondition(format!("directory `{sub_dir}` cannot be a volume of its own: {relation}")))
    }
}

/// Finds the volumes, other than `me`, whose directories are `sub_dir`, above it or below it.
pub async fn neighbours<F: Fs>(export: &Export<F>, sub_dir: &SubDir, me: Option<&VolumeName>) -> Result<Neighbours> {
    let mut found = Neighbours::default();
    let Some(layout) = export.layout().await? else { return Ok(found) };
    let nested = sub_dir.names().count() > 1;
    if let Ok(first) = VolumeName::parse("subDir", sub_dir.first())
        && me != Some(&first)
        && Record::read(export, &first).await?.is_some_and(|record| record.id.uuid.is_none())
    {
        *(if nested { &mut found.above } else { &mut found.same }) = Some(first);
    }
    let mut dir = layout.paths.clone();
    let mut path = String::new();
    for name in sub_dir.names() {
        let Some(next) = export.find_dir(&dir, [name.clone()]).await? else { return Ok(found) };
        dir = next;
        path = join(&path, &name);
        let here = SubDir::parse("subDir", &path)?;
        let owner = claimant(export, &dir, &here, me).await?;
        *(if here == *sub_dir { &mut found.same } else { &mut found.above }) =
            owner.or(if here == *sub_dir { found.same.take() } else { found.above.take() });
    }
    found.below = below(export, dir, sub_dir, me).await?;
    Ok(found)
}

/// A volume other than `me` with a live claim on the directory `sub_dir`, whose node under `paths` is `node`.
async fn claimant<F: Fs>(
    export: &Export<F>,
    node: &F::Handle,
    sub_dir: &SubDir,
    me: Option<&VolumeName>,
) -> Result<Option<VolumeName>> {
    let Some(claims) = export.find_dir(node, [claims_dir()?]).await? else { return Ok(None) };
    for entry in export.names(&claims).await? {
        let Some(name) = VolumeName::of_file(&entry, "").filter(|name| me != Some(name)) else { continue };
        match Record::read(export, &name).await? {
            Some(record) if record.id.sub_dir == *sub_dir => return Ok(Some(name)),
            _ => remove(export, &claims, &entry, false).await?,
        }
    }
    Ok(None)
}

/// A volume with a live claim somewhere below `node`.
async fn below<F: Fs>(
    export: &Export<F>,
    node: F::Handle,
    sub_dir: &SubDir,
    me: Option<&VolumeName>,
) -> Result<Option<VolumeName>> {
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
            if let Some(owner) = claimant(export, &child, &here, me).await? {
                return Ok(Some(owner));
            }
            open.push((child, path));
        }
    }
    Ok(None)
}

/// Claims a volume's directory for it, where it needs a claim.
pub async fn claim<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<()> {
    let (sub_dir, Some(name)) = (&id.sub_dir, &id.uuid) else { return Ok(()) };
    let layout = export.make_layout().await?;
    let claims = export.make_dirs(&layout.paths, sub_dir.names().chain([claims_dir()?]), 0o700).await?;
    match export.fs().create(&claims, &name.file("")?, 0o600).await {
        Ok(_) | Err(Status::Exist) => Ok(()),
        Err(status) => Err(export.failed(format!("claiming directory `{sub_dir}`"), status)),
    }
}

/// Gives a volume's claim up, where it needed one.
pub async fn release<F: Fs>(export: &Export<F>, id: &VolumeId) -> Result<()> {
    match &id.uuid {
        Some(name) => remove_claim(export, &id.sub_dir, name).await,
        None => Ok(()),
    }
}

/// Removes the claim of `name` on `sub_dir`, and what is empty then.
pub async fn remove_claim<F: Fs>(export: &Export<F>, sub_dir: &SubDir, name: &VolumeName) -> Result<()> {
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
        remove(export, claims, &name.file("")?, false).await?;
    }
    nodes.pop();
    for (parent, step) in nodes.iter().zip(&steps).rev() {
        remove(export, parent, step, true).await?;
    }
    Ok(())
}

/// Removes a claim, or a directory if it is empty.
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

fn claims_dir() -> Result<Name> {
    Name::new("#").map_err(|status| Error::Internal(status.to_string()))
}
