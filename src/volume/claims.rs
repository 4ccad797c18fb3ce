//! The claims of volumes on directories, in `.csi-nfs/paths`.
//!
//! A volume whose directory has the volume's name needs no claim: its record is enough. A volume with a `subDir` has a
//! claim on `a/b` in one of two forms:
//! - `paths/a/b#`, a symbolic link whose target is the volume's name: the claim of one volume, made and removed by one
//!   operation. Nearly every directory has one volume.
//! - `paths/a/b/#/NAME`, an empty file: the claim of every further volume, and of any volume where the server has no
//!   symbolic links or the link's name is too long.
//!
//! (`#` is in no component of a `subDir` and in no volume's name.) A volume may have both. A claim is written before the
//! record and removed after it. So a claim without a record is left from a crash, means nothing, and is removed.
//!
//! Beside the files are the kept records of deleted volumes whose directory was kept, `NAME#kept` (`kept.rs`).
//!
//! The caller holds the volume's lock (`lock.rs`): alone on the directory, shared on those above it. So all that is
//! written here of the directory itself, above it and below it stays as it is, and only volumes side by side come and
//! go.

use std::collections::BTreeSet;

use tokio::try_join;

use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::emptying::Leaving;
use crate::export::fs::{Fs, Kind, Name, Status};
use crate::nfs::source::SubDir;
use crate::volume::directory;
use crate::volume::id::{VolumeId, VolumeName};

/// Where claims are, as told apart from directories of the share.
const PATHS: &str = ".csi-nfs/paths";

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

/// What `.csi-nfs/paths` has of one directory.
pub struct Entries<F: Fs> {
    /// The claims on it.
    pub claims: Vec<Claim<F>>,
    /// The deleted volumes for which it was kept.
    pub kept: Vec<VolumeName>,
    /// The node that has the entries of the directories inside it, if there is one.
    pub node: Option<F::Handle>,
}

impl<F: Fs> Entries<F> {
    /// The entries of a directory that has no claims and was not kept.
    pub fn none(node: Option<F::Handle>) -> Self {
        Self { claims: Vec::new(), kept: Vec::new(), node }
    }
}

/// A claim, and where it is.
pub struct Claim<F: Fs> {
    /// The volume that has the directory.
    pub volume: VolumeName,
    dir: F::Handle,
    file: Name,
}

impl<F: Fs> Claim<F> {
    /// Removes the claim.
    pub async fn remove(&self, export: &Export<F>) -> Result<()> {
        remove_at(export, &self.dir, &self.file).await
    }
}

/// The way to a directory in `.csi-nfs/paths`, as a call found it that holds the volume's lock. So the call needs no
/// second look.
pub struct Way<F: Fs> {
    /// The nodes from `paths` to that of the directory, as far as they exist.
    pub nodes: Vec<F::Handle>,
    /// The claims of the call's own volume on the directory.
    pub own: Vec<Claim<F>>,
}

impl<F: Fs> Default for Way<F> {
    fn default() -> Self {
        Self { nodes: Vec::new(), own: Vec::new() }
    }
}

/// The names by which a node has what there is of the directory `name`.
pub fn names(name: Name) -> Vec<Name> {
    link_name(&name).into_iter().chain([name]).collect()
}

/// Reads what there is of the directory `name`, whose parent directory has the node `above`.
pub async fn read<F: Fs>(export: &Export<F>, above: &F::Handle, name: &Name) -> Result<Entries<F>> {
    let linked = async {
        let Some(link) = link_name(name) else { return Ok(None) };
        let volume = linked_volume(export, above, &link).await?;
        Ok(volume.map(|volume| Claim { volume, dir: above.clone(), file: link }))
    };
    let (linked, node) = try_join!(linked, node(export, above, name))?;
    let mut entries = Entries::none(node);
    entries.claims.extend(linked);
    let Some(node) = &entries.node else { return Ok(entries) };
    let Some(files) = export.find_dir(node, [files_dir()?]).await? else { return Ok(entries) };
    for file in export.names(&files).await? {
        entries.kept.extend(kept_volume(&file));
        if let Some(volume) = VolumeName::of_file(&file, "") {
            entries.claims.push(Claim { volume, dir: files.clone(), file });
        }
    }
    Ok(entries)
}

/// The node of the directory `name`, whose parent directory has the node `above`, if there is one.
pub async fn node<F: Fs>(export: &Export<F>, above: &F::Handle, name: &Name) -> Result<Option<F::Handle>> {
    let found = export.find(above, name).await?;
    Ok(found.filter(|(_, attr)| attr.kind == Kind::Directory).map(|(node, _)| node))
}

/// The names of the directories directly inside the one of `node` that have entries, or have directories inside them
/// that have.
pub async fn inside<F: Fs>(export: &Export<F>, node: &F::Handle) -> Result<BTreeSet<Name>> {
    let names = export.names(node).await?;
    // Nothing is left of `#`, which has the directory's own entries.
    let bare = names.iter().map(|name| name.as_bytes().strip_suffix(b"#").unwrap_or(name.as_bytes()));
    Ok(bare.filter_map(|name| Name::new(name).ok()).collect())
}

/// Writes the claim of a volume on its directory, if the volume needs one. `way` is what the call knows of the way there;
/// `None` if it has not looked.
pub async fn claim<F: Fs>(export: &Export<F>, id: &VolumeId, way: Option<&Way<F>>) -> Result<()> {
    let (sub_dir, Some(volume)) = (&id.sub_dir, &id.uuid) else { return Ok(()) };
    let (above, last) = directory::split(sub_dir)?;
    if let Some(link) = link_name(&last) {
        let known = match way.and_then(|way| way.nodes.get(above.len())) {
            Some(node) => Some(make_link(export, node, &link, id, volume).await),
            None => None,
        };
        let layout = export.make_layout().await?;
        let walk = || async {
            let node = export.make_dirs(&layout.paths, above.clone(), 0o700).await?;
            make_link(export, &node, &link, id, volume).await
        };
        let made = match known {
            // Stale: another call has removed the node since, because it was empty.
            None | Some(Err(Error::Export { status: Status::Stale, .. })) => export.despite_removals(walk).await?,
            Some(made) => made?,
        };
        if made {
            return Ok(());
        }
    }
    let files = make_files_dir(export, sub_dir).await?;
    match export.fs().create(&files, &volume.file("")?, 0o600).await {
        Ok(_) | Err(Status::Exist) => Ok(()),
        Err(status) => Err(failed_claim(export, id, status)),
    }
}

/// Makes the link in `above`. Returns whether it is the claim of `volume`.
async fn make_link<F: Fs>(
    export: &Export<F>,
    above: &F::Handle,
    link: &Name,
    id: &VolumeId,
    volume: &VolumeName,
) -> Result<bool> {
    match export.fs().symlink(above, link, volume.as_str().as_bytes()).await {
        Ok(_) => Ok(true),
        Err(Status::Exist) => Ok(linked_volume(export, above, link).await?.as_ref() == Some(volume)),
        Err(Status::NotSupp) => Ok(false),
        Err(status) => Err(failed_claim(export, id, status)),
    }
}

fn failed_claim<F: Fs>(export: &Export<F>, id: &VolumeId, status: Status) -> Error {
    export.failed(format!("claiming directory `{}`", id.sub_dir), status)
}

/// Returns the directory that holds the claims on `sub_dir` that are files, and creates it if it is missing.
pub(super) async fn make_files_dir<F: Fs>(export: &Export<F>, sub_dir: &SubDir) -> Result<F::Handle> {
    let layout = export.make_layout().await?;
    export.make_dirs(&layout.paths, sub_dir.names().chain([files_dir()?]), 0o700).await
}

/// Whether the directory was kept for the deleted volume `volume`.
pub(super) async fn is_kept<F: Fs>(export: &Export<F>, sub_dir: &SubDir, volume: &VolumeName) -> Result<bool> {
    let Some(layout) = export.layout().await? else { return Ok(false) };
    let Some(files) = export.find_dir(&layout.paths, sub_dir.names().chain([files_dir()?])).await? else {
        return Ok(false);
    };
    Ok(export.find(&files, &kept_file(volume)?).await?.is_some())
}

/// Removes the claim of a volume on its directory, if the volume needed one. `way` is what the call knows of the way
/// there; `None` if it has not looked, or has made claims since.
pub async fn release<F: Fs>(export: &Export<F>, id: &VolumeId, way: Option<&Way<F>>) -> Result<()> {
    let Some(volume) = &id.uuid else { return Ok(()) };
    let (above, last) = directory::split(&id.sub_dir)?;
    if let Some(way) = way
        && let [claim] = way.own.as_slice()
        && Some(&claim.file) == link_name(&last).as_ref()
        && way.nodes.len() == above.len() + 1
    {
        let leaving = directory::above(&id.sub_dir).map(|above| export.emptying.begin(format!("{PATHS}/{above}")));
        let removed = async {
            claim.remove(export).await?;
            match leaving.is_some_and(Leaving::leave) {
                true => remove_nodes(export, &way.nodes, &above).await,
                false => Ok(()),
            }
        };
        match removed.await {
            // Another call has removed a node since.
            Err(Error::Export { status: Status::Stale, .. }) => {}
            removed => return removed,
        }
    }
    remove(export, &id.sub_dir, volume).await
}

/// Removes the claim of `volume` on `sub_dir`, in both its forms.
pub async fn remove<F: Fs>(export: &Export<F>, sub_dir: &SubDir, volume: &VolumeName) -> Result<()> {
    let file = volume.file("")?;
    export.despite_removals(|| remove_entry(export, sub_dir, &file, Some(volume))).await
}

/// Removes the kept record of the deleted volume `volume`.
pub(super) async fn forget<F: Fs>(export: &Export<F>, sub_dir: &SubDir, volume: &VolumeName) -> Result<()> {
    let file = kept_file(volume)?;
    export.despite_removals(|| remove_entry(export, sub_dir, &file, None)).await
}

/// Removes what `sub_dir` has under the name `file`, the link of the volume `linked`, and the nodes that are empty then.
async fn remove_entry<F: Fs>(
    export: &Export<F>,
    sub_dir: &SubDir,
    file: &Name,
    linked: Option<&VolumeName>,
) -> Result<()> {
    let Some(layout) = export.layout().await? else { return Ok(()) };
    let steps: Vec<Name> = sub_dir.names().chain([files_dir()?]).collect();
    let mut nodes = vec![layout.paths.clone()];
    for step in &steps {
        let Some(parent) = nodes.last() else { return Ok(()) };
        let Some(node) = export.find_dir(parent, [step.clone()]).await? else { break };
        nodes.push(node);
    }
    let depth = steps.len() - 1;
    if let Some(files) = nodes.get(depth + 1) {
        remove_at(export, files, file).await?;
    }
    if let (Some(above), Some(volume), Some(link)) = (nodes.get(depth - 1), linked, link_name(&steps[depth - 1]))
        && linked_volume(export, above, &link).await?.as_ref() == Some(volume)
    {
        remove_at(export, above, &link).await?;
    }
    remove_nodes(export, &nodes, &steps).await
}

/// Removes those of the nodes `nodes` that are empty, up to `paths`, which is the first. `steps` are their names, without
/// that of `paths`.
async fn remove_nodes<F: Fs>(export: &Export<F>, nodes: &[F::Handle], steps: &[Name]) -> Result<()> {
    for (parent, step) in nodes.iter().take(nodes.len() - 1).zip(steps).rev() {
        match export.fs().rmdir(parent, step).await {
            Ok(()) | Err(Status::NoEnt) => {}
            Err(Status::NotEmpty) => return Ok(()),
            Err(status) => return Err(failed_removal(export, step, status)),
        }
    }
    Ok(())
}

/// Removes a file. Succeeds if there is none.
async fn remove_at<F: Fs>(export: &Export<F>, dir: &F::Handle, name: &Name) -> Result<()> {
    match export.fs().unlink(dir, name).await {
        Ok(()) | Err(Status::NoEnt) => Ok(()),
        Err(status) => Err(failed_removal(export, name, status)),
    }
}

fn failed_removal<F: Fs>(export: &Export<F>, name: &Name, status: Status) -> Error {
    export.failed(format!("removing `{name}` below `.csi-nfs/paths`"), status)
}

/// The volume whose name is the target of this link; `None` if there is no such link.
async fn linked_volume<F: Fs>(export: &Export<F>, dir: &F::Handle, link: &Name) -> Result<Option<VolumeName>> {
    let Some((object, attr)) = export.find(dir, link).await? else { return Ok(None) };
    if attr.kind != Kind::Symlink {
        return Ok(None);
    }
    match export.fs().readlink(&object).await {
        Ok(target) => Ok(Name::new(target).ok().and_then(|target| VolumeName::of_file(&target, ""))),
        // Another call has removed it: it was left from a crash.
        Err(Status::NoEnt | Status::Stale) => Ok(None),
        Err(status) => Err(export.failed(format!("reading the link `{link}` below `.csi-nfs/paths`"), status)),
    }
}

/// The name of the link of the directory `name`; `None` if it is too long for a name.
fn link_name(name: &Name) -> Option<Name> {
    Name::new([name.as_bytes(), b"#"].concat()).ok()
}

/// The directory, beside the nodes of the directories inside, in which claims and kept records are files.
fn files_dir() -> Result<Name> {
    Name::new("#").map_err(|status| Error::Internal(status.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::testing::crash_harness::connect;
    use crate::testing::memory::{MemoryFs, MemoryServer};

    /// A directory whose name is too long for a link.
    static LONG: LazyLock<String> = LazyLock::new(|| format!("team/{}", "n".repeat(Name::MAX)));

    fn id(sub_dir: &str, volume: &str) -> VolumeId {
        VolumeId::parse(&format!("nfs#export#{sub_dir}#{volume}#")).unwrap()
    }

    async fn owners(export: &Export<MemoryFs>, sub_dir: &str) -> BTreeSet<String> {
        let (above, last) = directory::split(&SubDir::parse("subDir", sub_dir).unwrap()).unwrap();
        let layout = export.make_layout().await.unwrap();
        let Some(above) = export.find_dir(&layout.paths, above).await.unwrap() else { return BTreeSet::new() };
        read(export, &above, &last).await.unwrap().claims.iter().map(|claim| claim.volume.to_string()).collect()
    }

    #[tokio::test]
    async fn one_volume_takes_one_change_of_the_export_and_further_ones_have_files() {
        let server = MemoryServer::new();
        let export = connect(&server);
        claim(&export, &id("team/data", "v"), None).await.unwrap();
        claim(&export, &id("team/data", "v"), None).await.unwrap();
        assert_eq!(server.tree().below(".csi-nfs/paths").paths(), ["team", "team/data#"]);
        claim(&export, &id("team/data", "w"), None).await.unwrap();
        assert!(server.tree().has(".csi-nfs/paths/team/data/#/w"));
        assert_eq!(owners(&export, "team/data").await, ["v", "w"].map(str::to_owned).into());
    }

    #[tokio::test]
    async fn a_server_without_symbolic_links_has_claims_as_files() {
        let server = MemoryServer::new();
        let export = connect(&server);
        claim(&export, &id("team/other", "v"), None).await.unwrap();
        let before = export.fs().operations();
        claim(&export, &id("team/data", "v"), None).await.unwrap();
        let link = export.fs().operations();
        release(&export, &id("team/data", "v"), None).await.unwrap();
        let export = connect(&server);
        export.make_layout().await.unwrap();
        let start = export.fs().operations();
        export.fs().fail_at(start + link - before - 1, Status::NotSupp);
        claim(&export, &id("team/data", "v"), None).await.unwrap();
        assert!(server.tree().has(".csi-nfs/paths/team/data/#/v"));
        release(&export, &id("team/data", "v"), None).await.unwrap();
        assert_eq!(server.tree().below(".csi-nfs/paths").paths(), ["team", "team/other#"]);
    }

    #[rstest]
    #[case::no_link("file", "")]
    #[case::no_name("link", "a/b")]
    #[tokio::test]
    async fn what_is_no_claim_in_the_place_of_one_stops_nobody(#[case] kind: &str, #[case] target: &str) {
        let server = MemoryServer::new();
        let export = connect(&server);
        let layout = export.make_layout().await.unwrap();
        let name = Name::new("data#").unwrap();
        match kind {
            "file" => drop(export.fs().create(&layout.paths, &name, 0o600).await.unwrap()),
            _ => drop(export.fs().symlink(&layout.paths, &name, target.as_bytes()).await.unwrap()),
        }
        claim(&export, &id("data", "v"), None).await.unwrap();
        assert_eq!(owners(&export, "data").await, ["v".to_owned()].into());
        release(&export, &id("data", "v"), None).await.unwrap();
        assert_eq!(server.tree().below(".csi-nfs/paths").paths(), ["data#"]);
    }

    proptest! {
        #[test]
        fn a_directory_has_the_owners_that_claimed_it_and_did_not_release_it(
            steps in prop::collection::vec((any::<bool>(), 0..3_usize, 0..3_usize), 0..20),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let server = MemoryServer::new();
                let export = connect(&server);
                export.make_layout().await.unwrap();
                let dirs = ["data", "team/data", LONG.as_str()];
                let mut expected = dirs.map(|_| BTreeSet::new());
                for (claims, dir, volume) in steps {
                    let volume = ["u", "v", "w"][volume].to_owned();
                    let id = id(dirs[dir], &volume);
                    match claims {
                        true => {
                            claim(&export, &id, None).await.unwrap();
                            expected[dir].insert(volume);
                        }
                        false => {
                            release(&export, &id, None).await.unwrap();
                            expected[dir].remove(&volume);
                        }
                    }
                }
                for (dir, expected) in dirs.iter().zip(&expected) {
                    assert_eq!(owners(&export, dir).await, *expected);
                }
                if expected.iter().all(BTreeSet::is_empty) {
                    assert!(server.tree().below(".csi-nfs/paths").paths().is_empty(), "an empty node is left");
                }
            });
        }
    }
}
