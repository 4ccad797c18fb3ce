//! Tests of the service on exports in memory: options, lists over exports, and health.

mod groups;
mod lists;
mod moves;
mod not_found;
mod sizes;
mod snapshots;
mod whole_exports;

use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::*;
use crate::error::Error;
use crate::export::Export;
use crate::export::copy::Options;
use crate::export::fs::Fs as _;
use crate::nfs::source::Source;
use crate::service::proto::csi::volume_capability::access_mode::Mode;
use crate::service::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use crate::testing::memory::{MemoryFs, MemoryServer, Node};
use crate::testing::memory_servers::{ELSEWHERE, Process, Servers, export_of};
use crate::volume::exports::Configured;
use crate::volume::id::VolumeName;
use crate::volume::on_delete::OnDelete;

struct Lab {
    servers: Arc<Servers>,
    configured: Configured,
    controller: Controller<Arc<Process>>,
}

impl Lab {
    fn new(takes: &'static str) -> Self {
        let servers = ["a", "b"].map(|server| (export_of(server), MemoryServer::new()));
        let servers = Servers::new(servers.into(), takes);
        let configured = Configured::default();
        let mut lab = Self { controller: controller(&servers, &configured), servers, configured };
        lab.restart();
        lab
    }

    fn restart(&mut self) {
        self.controller = controller(&self.servers, &self.configured);
    }

    /// Another controller on the same servers.
    fn other(&self) -> Self {
        let (servers, configured) = (self.servers.clone(), self.configured.clone());
        Self { controller: controller(&servers, &configured), servers, configured }
    }

    fn server(&self, name: &str) -> &MemoryServer {
        &self.servers.servers[&export_of(name)]
    }

    async fn create(&self, server: &str, name: &str, secrets: &[(&str, &str)]) -> Result<String, Status> {
        let request = csi::CreateVolumeRequest { secrets: map(secrets), ..request(server, name) };
        let response = self.controller.create_volume(Request::new(request)).await?;
        Ok(response.into_inner().volume.unwrap().volume_id)
    }

    async fn delete(&self, volume_id: &str) -> Result<(), Status> {
        let request = csi::DeleteVolumeRequest { volume_id: volume_id.to_owned(), ..Default::default() };
        self.controller.delete_volume(Request::new(request)).await.map(drop)
    }

    async fn list(&self, max_entries: i32, starting_token: &str) -> Result<(Vec<String>, String), Status> {
        let request = csi::ListVolumesRequest { max_entries, starting_token: starting_token.to_owned() };
        let listed = self.controller.list_volumes(Request::new(request)).await?.into_inner();
        Ok((listed.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect(), listed.next_token))
    }

    async fn unhealthy(&self, max_entries: i32, starting_token: &str) -> (Vec<(String, Vec<String>)>, String) {
        let starting_token = starting_token.to_owned();
        let request = csi::ControllerListVolumeHealthRequest { max_entries, starting_token, ..Default::default() };
        let listed = self.controller.controller_list_volume_health(Request::new(request)).await.unwrap().into_inner();
        (listed.entries.into_iter().map(reasons).collect(), listed.next_token)
    }

    async fn health(&self, volume_id: &str) -> Result<Vec<String>, Status> {
        let request = csi::ControllerGetVolumeHealthRequest { volume_id: volume_id.to_owned(), ..Default::default() };
        let health = self.controller.controller_get_volume_health(Request::new(request)).await?;
        Ok(reasons(health.into_inner().volume_health.unwrap()).1)
    }
}

fn controller(servers: &Arc<Servers>, configured: &Configured) -> Controller<Arc<Process>> {
    let settings = Settings {
        mount_options: configured.clone(),
        defaults: Attributes { on_delete: Some(OnDelete::Delete), ..Attributes::default() },
        delete: DeletePolicy { default: OnDelete::Delete, replace_archive: false },
    };
    let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
    Controller::new(Arc::new(Pool::new(Process::new(servers), [])), settings, jobs)
}

fn reasons(health: csi::VolumeHealth) -> (String, Vec<String>) {
    (health.volume_id, health.health_statuses.into_iter().map(|status| status.reason).collect())
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn request(server: &str, name: &str) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.to_owned(),
        volume_capabilities: vec![mount(Mode::MultiNodeMultiWriter, &[])],
        parameters: map(&[("server", server), ("share", "/export")]),
        ..Default::default()
    }
}

fn mount(mode: Mode, flags: &[&str]) -> csi::VolumeCapability {
    let mount_flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    csi::VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume { mount_flags, ..Default::default() })),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

#[tokio::test]
async fn a_volume_that_needs_its_own_options_is_deleted_without_naming_them() {
    let mut lab = Lab::new("xprtsec=tls");
    let mut asked = request("a", "v");
    asked.volume_capabilities = vec![mount(Mode::MultiNodeMultiWriter, &["xprtsec=tls"])];
    let made = lab.controller.create_volume(Request::new(asked)).await.unwrap().into_inner();
    lab.restart();
    lab.delete(&made.volume.unwrap().volume_id).await.unwrap();
    assert!(!lab.server("a").tree().has("v"));
}

#[tokio::test]
async fn the_options_of_an_export_hold_for_every_call_on_it() {
    // Neither of the fallbacks, no options and `xprtsec=tls`, reaches this export.
    let mut lab = Lab::new("vers=4.1,xprtsec=tls");
    assert_eq!(lab.create("a", "v", &[]).await.unwrap_err().code(), Code::PermissionDenied);
    let options = MountOptions::parse("", ["vers=4.1,xprtsec=tls"]).unwrap();
    lab.configured.exports.insert(export_of("a"), options);
    lab.restart();
    let v = lab.create("a", "v", &[]).await.unwrap();
    let asked = csi::GetCapacityRequest { parameters: request("a", "").parameters, ..Default::default() };
    assert!(lab.controller.get_capacity(Request::new(asked)).await.unwrap().into_inner().available_capacity > 0);
    lab.restart();
    assert_eq!(lab.snapshot(&v, "s", &[]).await.unwrap().size_bytes, 0);
    lab.server("a").plant("theirs/file", Node::file(0o600, "")).unwrap();
    lab.restart();
    lab.health("a#export#theirs##").await.unwrap();
    lab.restart();
    let request = csi::DeleteSnapshotRequest { snapshot_id: "a#export#s###snapshot".to_owned(), ..Default::default() };
    Rpc::delete_snapshot(&lab.controller, Request::new(request)).await.unwrap();
    lab.restart();
    lab.group("g", &[&v], &[]).await.unwrap();
    lab.restart();
    let members = ["a#export#g-0###snapshot".to_owned()];
    lab.get_group("a#export#g###group", &members).await.unwrap();
    lab.delete_group("a#export#g###group", &members).await.unwrap();
    lab.restart();
    lab.delete("a#export#theirs##").await.unwrap();
    lab.delete(&v).await.unwrap();
    assert!(!lab.server("a").tree().has("v") && !lab.server("a").tree().has("theirs"));
    assert_eq!(lab.create("b", "v", &[]).await.unwrap_err().code(), Code::PermissionDenied, "another export");
}

#[tokio::test]
async fn the_options_of_an_export_hold_after_a_class_has_used_others() {
    let mut lab = Lab::new("vers=4.2;vers=4.1,xprtsec=mtls");
    let own = MountOptions::parse("", ["vers=4.1,xprtsec=mtls"]).unwrap();
    lab.configured.exports.insert(export_of("a"), own.clone());
    lab.restart();
    let mut asked = request("a", "v");
    asked.volume_capabilities = vec![mount(Mode::MultiNodeMultiWriter, &["vers=4.2"])];
    lab.controller.create_volume(Request::new(asked)).await.unwrap();
    let exports = &lab.controller.exports;
    assert_eq!(exports.reach(&export_of("a")).await.unwrap(), own);
    assert_eq!(exports.known(), [(export_of("a"), own)]);
}

#[tokio::test]
async fn an_export_with_options_of_its_own_is_reached_with_these_or_not_at_all() {
    let mut lab = Lab::new("vers=4.2");
    let own = MountOptions::parse("", ["vers=4.2,xprtsec=mtls"]).unwrap();
    lab.configured.exports.insert(export_of("a"), own);
    lab.restart();
    let mut asked = request("a", "v");
    asked.volume_capabilities = vec![mount(Mode::MultiNodeMultiWriter, &["vers=4.2"])];
    lab.controller.create_volume(Request::new(asked)).await.unwrap();
    assert_eq!(lab.delete("a#export#other##").await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn the_first_error_is_returned() {
    let lab = Lab::new("vers=3");
    let status = lab.delete("a#export#v##").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

#[tokio::test]
async fn mount_options_are_from_the_capability_or_else_from_the_secrets() {
    let lab = Lab::new("vers=4.1");
    let mut asked = request("a", "v");
    asked.volume_capabilities = vec![mount(Mode::MultiNodeMultiWriter, &["vers=4.1"])];
    asked.secrets = map(&[("mountOptions", "vers=4.0")]);
    lab.controller.create_volume(Request::new(asked)).await.unwrap();
    lab.create("a", "w", &[("MountOptions", "vers=4.1")]).await.unwrap();
    assert_eq!(lab.create("a", "x", &[]).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_secret_with_mount_options_in_two_spellings_is_refused() {
    let lab = Lab::new("");
    let status = lab.create("a", "v", &[("mountOptions", "vers=4.0"), ("mountoptions", "vers=4.1")]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("secrets[mountOptions]: given twice"), "{status}");
}

#[tokio::test]
async fn a_secret_is_in_no_message_and_on_no_export() {
    let lab = Lab::new("vers=4.1");
    for value in ["port=31337", "hunter2"] {
        let status = lab.create("a", "v", &[("mountOptions", value)]).await.unwrap_err();
        assert!(!status.message().contains("31337") && !status.message().contains("hunter2"), "{status}");
    }
    lab.create("a", "v", &[("mountOptions", "vers=4.1"), ("password", "hunter2")]).await.unwrap();
    let tree = lab.server("a").tree().to_string();
    assert!(!tree.contains("hunter2") && !tree.contains("vers=4.1"), "{tree}");
}

#[tokio::test]
async fn a_block_volume_a_missing_mode_and_missing_capabilities_are_invalid() {
    let lab = Lab::new("");
    let block = csi::VolumeCapability {
        access_type: Some(AccessType::Block(BlockVolume {})),
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
    };
    for capabilities in
        [vec![], vec![block], vec![mount(Mode::Unknown, &[])], vec![mount(Mode::SingleNodeWriter, &["bind"])]]
    {
        let asked = csi::CreateVolumeRequest { volume_capabilities: capabilities, ..request("a", "v") };
        let status = lab.controller.create_volume(Request::new(asked)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert_eq!(lab.servers.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_list_covers_all_exports_in_pages_whose_tokens_survive_a_restart() {
    let mut lab = Lab::new("");
    for (server, name) in [("b", "v2"), ("a", "v3"), ("a", "v1")] {
        lab.create(server, name, &[]).await.unwrap();
    }
    let (mut first, token) = lab.list(2, "").await.unwrap();
    first.sort();
    assert_eq!(first, ["a#export#v1##", "a#export#v3##"]);
    lab.restart();
    // The new process only knows exports that calls have named.
    lab.create("b", "v2", &[]).await.unwrap();
    assert_eq!(lab.list(2, &token).await.unwrap(), (vec!["b#export#v2##".to_owned()], String::new()));
    assert_eq!(lab.list(0, "nonsense").await.unwrap_err().code(), Code::Aborted);
}

/// Truncates a file of the driver.
async fn tear(server: &MemoryServer, directory: &str, file: &str) {
    let fs = server.client();
    let name = |text: &str| crate::export::fs::Name::new(text).unwrap();
    let (private, _) = fs.lookup(&fs.root(), &name(".csi-nfs")).await.unwrap();
    let (directory, _) = fs.lookup(&private, &name(directory)).await.unwrap();
    fs.unlink(&directory, &name(file)).await.unwrap();
    fs.write_file(&directory, &name(file), 0o600, b"{".to_vec()).await.unwrap();
}

#[tokio::test]
async fn a_truncated_record_hides_no_other_record_from_a_list() {
    let lab = Lab::new("");
    lab.create("a", "one", &[]).await.unwrap();
    let two = lab.create("a", "two", &[]).await.unwrap();
    lab.snapshot(&two, "s", &[]).await.unwrap();
    let t = lab.snapshot(&two, "t", &[]).await.unwrap();
    tear(lab.server("a"), "volumes", "one.json").await;
    tear(lab.server("a"), "snapshots", "s.json").await;
    assert_eq!(lab.list(0, "").await.unwrap().0, [two]);
    assert_eq!(lab.unhealthy(0, "").await.0, []);
    assert_eq!(lab.snapshots("").await, [t.snapshot_id]);
}

#[tokio::test]
async fn the_node_s_flag_does_not_override_the_mode_of_a_class() {
    let lab = Lab::new("");
    let mut asked = request("a", "asked");
    asked.parameters.insert("mountPermissions".to_owned(), "0770".to_owned());
    for (request, settled) in [(asked, Some("0")), (request("a", "plain"), None)] {
        let volume = lab.controller.create_volume(Request::new(request)).await.unwrap().into_inner().volume.unwrap();
        assert_eq!(volume.volume_context.get("mountPermissions").map(String::as_str), settled);
    }
}

#[tokio::test]
async fn a_missing_directory_is_data_loss_and_a_missing_server_makes_all_known_volumes_inaccessible() {
    let lab = Lab::new("");
    let (v, w) = (lab.create("a", "v", &[]).await.unwrap(), lab.create("a", "w", &[]).await.unwrap());
    assert_eq!(lab.unhealthy(0, "").await, (vec![], String::new()));
    assert_eq!(lab.health(&v).await.unwrap(), Vec::<String>::new());

    // Someone removes a directory without the driver.
    let fs = lab.server("a").client();
    fs.rmdir(&fs.root(), &crate::export::fs::Name::new("v").unwrap()).await.unwrap();
    assert_eq!(lab.health(&v).await.unwrap(), ["DirectoryMissing"]);
    assert_eq!(lab.unhealthy(0, "").await.0, [(v.clone(), vec!["DirectoryMissing".to_owned()])]);

    lab.server("a").set_read_only(true);
    assert_eq!(lab.health(&w).await.unwrap(), ["ExportReadOnly"]);
    let (page, token) = lab.unhealthy(1, "").await;
    assert_eq!(page, [(v.clone(), vec!["DirectoryMissing".to_owned(), "ExportReadOnly".to_owned()])]);
    assert_eq!(lab.unhealthy(1, &token).await.0, [(w.clone(), vec!["ExportReadOnly".to_owned()])]);

    lab.servers.gone.store(true, Ordering::Relaxed);
    assert_eq!(lab.health(&w).await.unwrap(), ["ServerUnreachable"]);
    let gone = |id: &String| (id.clone(), vec!["ServerUnreachable".to_owned()]);
    assert_eq!(lab.unhealthy(0, "").await.0, [gone(&v), gone(&w)]);
    assert_eq!(lab.create("a", "x", &[]).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_volume_of_another_driver_is_found_by_its_directory_and_adopted_when_it_is_expanded() {
    let lab = Lab::new("");
    lab.server("a").plant("team/app/file", Node::file(0o600, "theirs")).unwrap();
    let volume_id = "a#export#team/app#pvc-1#".to_owned();
    let expand = csi::ControllerExpandVolumeRequest {
        volume_id: volume_id.clone(),
        capacity_range: Some(csi::CapacityRange { required_bytes: 1 << 20, limit_bytes: 0 }),
        ..Default::default()
    };
    let grown = lab.controller.controller_expand_volume(Request::new(expand)).await.unwrap().into_inner();
    assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (1 << 20, false));
    let get = csi::ControllerGetVolumeRequest { volume_id: volume_id.clone() };
    let found = lab.controller.controller_get_volume(Request::new(get)).await.unwrap().into_inner();
    assert_eq!(found.volume.unwrap().capacity_bytes, 1 << 20);
    assert_eq!(lab.server("a").tree().get("team/app/file").unwrap().text(), "theirs");
    lab.delete(&volume_id).await.unwrap();
    assert!(!lab.server("a").tree().has("team"));
}

#[tokio::test]
async fn an_export_that_was_replaced_is_connected_to_again() {
    let lab = Lab::new("");
    let v = lab.create("a", "v", &[]).await.unwrap();
    // The server restarts: all open files are stale, including the lock file.
    lab.server("a").power_loss(false);
    lab.delete(&v).await.unwrap();
    assert!(!lab.server("a").tree().has("v"));
}

#[tokio::test]
async fn deleting_an_unknown_volume_succeeds_and_other_calls_do_not_find_it() {
    let lab = Lab::new("");
    for id in ["nonsense", "a#export#..##", "a#export#v##", "a#export#.csi-nfs##"] {
        lab.delete(id).await.unwrap();
        let get = csi::ControllerGetVolumeRequest { volume_id: id.to_owned() };
        let status = lab.controller.controller_get_volume(Request::new(get)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{id}: {status}");
    }
    assert_eq!(lab.delete("").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(lab.server("a").tree().paths(), Vec::<String>::new(), "nothing is written for a missing volume");
}

#[tokio::test]
async fn the_capacity_is_returned_for_a_class_with_claim_names_in_subdir() {
    let lab = Lab::new("");
    let mut parameters = request("a", "").parameters;
    parameters.insert("subDir".to_owned(), "${pvc.metadata.namespace}/${pvc.metadata.name}".to_owned());
    let asked = csi::GetCapacityRequest { parameters, ..Default::default() };
    let told = lab.controller.get_capacity(Request::new(asked)).await.unwrap().into_inner();
    assert!(told.available_capacity > 0);
}

fn of_volume(volume_id: &str) -> Option<csi::VolumeContentSource> {
    let volume = csi::volume_content_source::VolumeSource { volume_id: volume_id.to_owned() };
    Some(csi::VolumeContentSource { r#type: Some(csi::volume_content_source::Type::Volume(volume)) })
}

fn of_snapshot(snapshot_id: &str) -> Option<csi::VolumeContentSource> {
    let snapshot = csi::volume_content_source::SnapshotSource { snapshot_id: snapshot_id.to_owned() };
    Some(csi::VolumeContentSource { r#type: Some(csi::volume_content_source::Type::Snapshot(snapshot)) })
}

impl Lab {
    async fn snapshot(
        &self,
        volume_id: &str,
        name: &str,
        parameters: &[(&str, &str)],
    ) -> Result<csi::Snapshot, Status> {
        let (source_volume_id, name) = (volume_id.to_owned(), name.to_owned());
        let parameters = map(parameters);
        let request = csi::CreateSnapshotRequest { source_volume_id, name, parameters, ..Default::default() };
        let answer = Rpc::create_snapshot(&self.controller, Request::new(request)).await?;
        Ok(answer.into_inner().snapshot.unwrap())
    }

    async fn snapshots(&self, source_volume_id: &str) -> Vec<String> {
        let source_volume_id = source_volume_id.to_owned();
        let request = csi::ListSnapshotsRequest { source_volume_id, ..Default::default() };
        let answer = Rpc::list_snapshots(&self.controller, Request::new(request)).await.unwrap().into_inner();
        answer.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect()
    }

    async fn fill(
        &self,
        server: &str,
        name: &str,
        source: Option<csi::VolumeContentSource>,
    ) -> Result<csi::Volume, Status> {
        let request = csi::CreateVolumeRequest { volume_content_source: source, ..request(server, name) };
        Ok(self.controller.create_volume(Request::new(request)).await?.into_inner().volume.unwrap())
    }
}
