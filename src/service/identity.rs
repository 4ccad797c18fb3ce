//! The Identity service (CSI, "Identity Service RPC"): the driver's name, its services, and whether it is ready.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::error::{Error, Result};
use crate::nfs::text::excerpt;
use crate::service::proto::csi;
use crate::service::proto::csi::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};

/// A driver's name for GetPluginInfo: at most 63 letters, digits, dashes and dots, with a letter or digit at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverName(String);

impl DriverName {
    /// Parses a name such as `nfs.csi.k8s.io`. `field` is the caller's name for it, for the error.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        let outer = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        if bytes.len() > 63 || !bytes.iter().copied().all(inner) || !outer(bytes.first()) || !outer(bytes.last()) {
            return Err(Error::invalid(
                field,
                format!(
                    "`{}`: a driver's name has at most 63 letters, digits, dashes and dots, with a letter or digit at \
                     both ends, such as nfs.csi.k8s.io",
                    text.escape_debug()
                ),
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node's identifier for NodeGetInfo: 1 to 256 bytes, without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeId(String);

impl NodeId {
    /// Parses an identifier, which is the node's name on Kubernetes. `field` is the caller's name for it, for the
    /// error.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid(field, "missing: the node's name, which the node service needs"));
        }
        if text.len() > 256 || text.chars().any(char::is_control) {
            let reason = format!("`{}`: a node's name has at most 256 bytes and no control characters", excerpt(text));
            return Err(Error::invalid(field, reason));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The driver is starting.
    Starting,
    /// The driver serves calls.
    Serving,
    /// The driver is shutting down and finishes calls in flight.
    Draining,
}

/// Whether the driver can serve. Probe, `/readyz` and the start and shutdown of the driver share it.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<State>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State::Starting)))
    }
}

impl Readiness {
    /// The current state.
    pub fn state(&self) -> State {
        *self.0.borrow()
    }

    /// Records that the driver has started. A driver that is shutting down stays in that state.
    pub fn serving(&self) {
        self.0.send_if_modified(|state| match state {
            State::Starting => {
                *state = State::Serving;
                true
            }
            State::Serving | State::Draining => false,
        });
    }

    /// Records that the driver is shutting down.
    pub fn draining(&self) {
        self.0.send_replace(State::Draining);
    }
}

/// The Identity service.
#[derive(Debug)]
pub struct Identity {
    name: DriverName,
    controller: bool,
    readiness: Readiness,
}

impl Identity {
    /// Creates the service. `controller` says whether this instance serves the Controller services.
    pub fn new(name: DriverName, controller: bool, readiness: Readiness) -> Self {
        Self { name, controller, readiness }
    }
}

#[tonic::async_trait]
impl csi::identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: self.name.to_string(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let controller = Type::Service(Service { r#type: service::Type::ControllerService.into() });
        let groups = Type::Service(Service { r#type: service::Type::GroupControllerService.into() });
        let expansion = Type::VolumeExpansion(VolumeExpansion { r#type: volume_expansion::Type::Online.into() });
        let served = [controller, groups].into_iter().filter(|_| self.controller).chain([expansion]);
        Ok(Response::new(csi::GetPluginCapabilitiesResponse {
            capabilities: served.map(|r#type| csi::PluginCapability { r#type: Some(r#type) }).collect(),
        }))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(self.readiness.state() == State::Serving) }))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::service::proto::csi::identity_server::Identity as _;

    fn identity(controller: bool, readiness: Readiness) -> Identity {
        Identity::new(DriverName::parse("name", "nfs.csi.k8s.io").unwrap(), controller, readiness)
    }

    #[rstest]
    fn an_invalid_driver_name_is_rejected(
        #[values("", ".", "-a", "a-", "a.", "a_b", "a b", "é", "a\n", &"n".repeat(64))] name: &str,
    ) {
        assert!(DriverName::parse("--drivername", name).is_err(), "{name:?}");
    }

    #[rstest]
    fn a_valid_driver_name_is_kept(#[values("csi-nfs.rs", "nfs.csi.k8s.io", "a", &"n".repeat(63))] name: &str) {
        assert_eq!(DriverName::parse("--drivername", name).unwrap().to_string(), name);
    }

    #[rstest]
    fn an_invalid_node_name_is_rejected(#[values("", "a\nb", &"n".repeat(257))] name: &str) {
        assert!(NodeId::parse("--nodeid", name).is_err(), "{name:?}");
    }

    #[tokio::test]
    async fn the_plugin_info_has_the_name_and_version() {
        let identity = identity(true, Readiness::default());
        let info = identity.get_plugin_info(Request::new(Default::default())).await.unwrap().into_inner();
        assert_eq!((&*info.name, &*info.vendor_version), ("nfs.csi.k8s.io", env!("CARGO_PKG_VERSION")));
    }

    #[rstest]
    #[case(true, 3)]
    #[case(false, 1)]
    #[tokio::test]
    async fn the_controller_is_announced_only_if_it_is_served(#[case] controller: bool, #[case] count: usize) {
        let identity = identity(controller, Readiness::default());
        let answer = identity.get_plugin_capabilities(Request::new(Default::default())).await.unwrap().into_inner();
        let announced = answer.capabilities.iter().any(|c| matches!(c.r#type, Some(Type::Service(_))));
        assert_eq!((announced, answer.capabilities.len()), (controller, count));
    }

    #[tokio::test]
    async fn the_driver_is_ready_only_between_its_start_and_its_shutdown() {
        let readiness = Readiness::default();
        let identity = identity(true, readiness.clone());
        let ready = async || identity.probe(Request::new(Default::default())).await.unwrap().into_inner().ready;
        assert_eq!(ready().await, Some(false));
        readiness.serving();
        assert_eq!(ready().await, Some(true));
        readiness.draining();
        readiness.serving();
        assert_eq!(ready().await, Some(false));
    }
}
