//! Groups of snapshots: the CSI Group Controller.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::future::try_join_all;
use tonic::{Request, Response, Status};

use super::{Controller, known};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::nfs::source::Source;
use crate::nfs::text::excerpt;
use crate::service::call_span;
use crate::service::controller::snapshots::{in_time, timestamp};
use crate::service::controller::volumes::known_id;
use crate::service::int64;
use crate::service::proto::csi;
use crate::service::proto::csi::group_controller_server::GroupController;
use crate::service::proto::csi::group_controller_service_capability::{self as capability_of, rpc::Type};
use crate::service::run_to_completion::run_to_completion;
use crate::snapshot::group;
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::id::GroupId;
use crate::snapshot::parameters::Parameters;
use crate::snapshot::record::State;
use crate::volume::id::{VolumeId, VolumeName};

impl<C: Connect> Controller<C> {
    async fn create_group(&self, request: csi::CreateVolumeGroupSnapshotRequest) -> Result<csi::VolumeGroupSnapshot> {
        let name = VolumeName::parse("name", &request.name)?;
        let sources = sources(request.source_volume_ids)?;
        let ids = sources.iter().map(|source| known_id(source)).collect::<Result<Vec<VolumeId>>>()?;
        let parameters = Parameters::parse(&request.parameters)?;
        let share = one_place(&parameters, &ids)?;
        let options = self.target_options(&share, parameters, &ids[0], &request.secrets).await?;
        let key = (share.clone(), group::job(&name));
        if let Some(error) = self.jobs.failure(&key) {
            return Err(error);
        }
        let work = |export: Arc<Export<C::Fs>>| {
            let (key, name, sources) = (key.clone(), name.clone(), sources.clone());
            let (options, ids, secrets) = (&options, &ids, &request.secrets);
            async move {
                let found = group::find(&export, &name, &sources).await?;
                if let Some(record) = found.as_ref().filter(|record| record.state == State::Ready) {
                    return Ok(record.clone());
                }
                let contents = try_join_all(ids.iter().map(|id| self.content_of_volume(id, secrets))).await;
                if let (Err(Error::NotFound { .. }), Some(pending)) = (&contents, found) {
                    let export = export.clone();
                    run_to_completion(async move { group::give_up(&export, &pending).await }).await?;
                }
                let contents = contents?;
                let sizes = contents.iter().map(|content| content.size).collect();
                let of = contents.iter().map(|content| content.of.clone()).collect();
                let trees: Vec<_> = contents.into_iter().map(|content| content.tree).collect();
                let create = group::Create { name: name.clone(), sources, sizes, mount_options: options.recorded() };
                let begin = {
                    let (export, trees) = (export.clone(), trees.clone());
                    async move { group::begin(&export, &create, &trees).await }
                };
                let begun = run_to_completion(begin).await?;
                if begun.state == State::Ready {
                    return Ok(begun);
                }
                let (target, copied) = (export.clone(), name.clone());
                let copy = async move |how| group::fill(&target, &copied, &trees, &how).await;
                let mut copy = self.jobs.join(key, of, copy);
                in_time(copy.wait(), begun, group::get(&export, &name)).await
            }
        };
        self.on(&share, &options, work).await.map(|record| answer(&record))
    }

    async fn delete_group(&self, request: csi::DeleteVolumeGroupSnapshotRequest) -> Result<()> {
        // CSI: a group that cannot exist is deleted.
        let id = match GroupId::parse(&request.group_snapshot_id) {
            Err(Error::Invalid { .. }) if !request.group_snapshot_id.is_empty() => return Ok(()),
            parsed => parsed?,
        };
        let options = self.group_options(&id, &request.secrets).await?;
        let read = |export: Arc<Export<C::Fs>>| {
            let name = &id.name;
            async move { GroupRecord::read(&export, name).await }
        };
        if let Some(record) = self.on(&id.export, &options, read).await? {
            // Before its copying is ended.
            record.check_members(&request.snapshot_ids)?;
        }
        self.jobs.end(&(id.export.clone(), group::job(&id.name))).await;
        let delete = |export: Arc<Export<C::Fs>>| {
            let (name, snapshots) = (id.name.clone(), request.snapshot_ids.clone());
            run_to_completion(async move { group::delete(&export, &name, &snapshots).await })
        };
        self.on(&id.export, &options, delete).await?;
        request.snapshot_ids.iter().for_each(|snapshot| self.jobs.end_copies_of(snapshot));
        Ok(())
    }

    async fn get_group(&self, request: csi::GetVolumeGroupSnapshotRequest) -> Result<csi::VolumeGroupSnapshot> {
        let text = &request.group_snapshot_id;
        let id = known("group", text, GroupId::parse(text))?;
        let options = self.group_options(&id, &request.secrets).await?;
        let get = |export: Arc<Export<C::Fs>>| {
            let name = &id.name;
            async move { group::get(&export, name).await }
        };
        let record = self.on(&id.export, &options, get).await?;
        record.check_members(&request.snapshot_ids)?;
        Ok(answer(&record))
    }

    /// The options to reach a group's export by.
    async fn group_options(&self, id: &GroupId, secrets: &HashMap<String, String>) -> Result<MountOptions> {
        call_span::server(id.export.server.as_str());
        let recorded = |export: Arc<Export<C::Fs>>| async move {
            Ok(GroupRecord::read(&export, &id.name).await?.map(|record| record.mount_options))
        };
        self.recorded_options(&id.export, secrets, recorded).await
    }
}

/// The volumes of a group, sorted: at least one, and each once.
fn sources(mut sources: Vec<String>) -> Result<Vec<String>> {
    const FIELD: &str = "source_volume_ids";
    if sources.is_empty() || sources.iter().any(String::is_empty) {
        return Err(Error::invalid(FIELD, "missing"));
    }
    sources.sort_unstable();
    if let Some(twice) = sources.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid(FIELD, format!("`{}` is given twice", excerpt(&twice[0]))));
    }
    Ok(sources)
}

/// The one export that a group is put on: its record decides for all of its snapshots, which has to be one write.
fn one_place(parameters: &Parameters, volumes: &[VolumeId]) -> Result<Source> {
    let places: BTreeSet<Source> = volumes.iter().map(|volume| parameters.place(&volume.export())).collect();
    match &places.iter().collect::<Vec<_>>()[..] {
        [place] => Ok((*place).clone()),
        several => {
            let named: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(Error::Precondition(format!(
                "the volumes of a group are on several exports, {}, and its snapshots have to be on one: say on which by the parameters server and share of the class",
                named.join(", ")
            )))
        }
    }
}

fn answer(record: &GroupRecord) -> csi::VolumeGroupSnapshot {
    let creation_time = Some(timestamp(record.created));
    let (group, ready) = (record.id.to_string(), record.state == State::Ready);
    let snapshots = record.members.iter().map(|member| csi::Snapshot {
        size_bytes: int64(member.size),
        snapshot_id: record.snapshot_id(member).to_string(),
        source_volume_id: member.source.clone(),
        creation_time,
        ready_to_use: ready,
        group_snapshot_id: group.clone(),
        ..csi::Snapshot::default()
    });
    csi::VolumeGroupSnapshot {
        snapshots: snapshots.collect(),
        group_snapshot_id: group.clone(),
        creation_time,
        ready_to_use: ready,
    }
}

#[tonic::async_trait]
impl<C: Connect> GroupController for Controller<C> {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<csi::GroupControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::GroupControllerGetCapabilitiesResponse>, Status> {
        let rpc = capability_of::Rpc { r#type: Type::CreateDeleteGetVolumeGroupSnapshot.into() };
        let capability = csi::GroupControllerServiceCapability { r#type: Some(capability_of::Type::Rpc(rpc)) };
        Ok(Response::new(csi::GroupControllerGetCapabilitiesResponse { capabilities: vec![capability] }))
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<csi::CreateVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::CreateVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.name);
        let group_snapshot = Some(self.create_group(request).await?);
        Ok(Response::new(csi::CreateVolumeGroupSnapshotResponse { group_snapshot }))
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<csi::DeleteVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::DeleteVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.group_snapshot_id);
        self.delete_group(request).await?;
        Ok(Response::new(csi::DeleteVolumeGroupSnapshotResponse {}))
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::GetVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        call_span::volume(&request.group_snapshot_id);
        let group_snapshot = Some(self.get_group(request).await?);
        Ok(Response::new(csi::GetVolumeGroupSnapshotResponse { group_snapshot }))
    }
}
