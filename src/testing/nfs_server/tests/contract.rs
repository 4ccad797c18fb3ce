//! The contract of the interface to an export, over the wire.

use super::*;
use crate::testing::conformance;

#[rstest::rstest]
#[tokio::test]
async fn the_drivers_own_client_keeps_the_contract(#[values("vers=4.2", "vers=4.1")] version: &str) {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    let fs = connected(&process(), server.address, version).await.unwrap();
    conformance::all(&fs).await;
    conformance::link_times(&fs).await;
    conformance::plant_foreign(&export, "foreign/");
    let (foreign, _) = fs.lookup(&fs.root(), &name("foreign")).await.unwrap();
    conformance::foreign(&fs, &foreign).await;
}

#[tokio::test]
async fn two_processes_see_each_others_changes_and_locks() {
    let export = MemoryServer::new();
    let server = NfsServer::start(&export).await;
    conformance::clients(&client(&server).await, &client(&server).await).await;
    assert_eq!(export.tree().paths(), [""; 0]);
}

#[tokio::test]
async fn an_export_without_the_optional_features_keeps_the_contract() {
    let export = MemoryServer::new();
    export.set_clone_supported(false);
    export.set_copy_supported(false);
    export.set_seek_supported(false);
    export.set_xattrs_supported(false);
    let server = NfsServer::start(&export).await;
    conformance::all(&client(&server).await).await;
}
