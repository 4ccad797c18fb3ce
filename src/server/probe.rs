//! `csi-nfs probe`: asks a running driver over its socket whether it can serve. kubelet's exec probes use it, because
//! the image contains no other program.

use std::time::Duration;

use tonic::transport::Endpoint;

use crate::error::{Error, Result};
use crate::server::socket::SocketPath;
use crate::service::proto::csi::ProbeRequest;
use crate::service::proto::csi::identity_client::IdentityClient;

/// Calls Probe (CSI, "Probe") and waits at most `limit`.
///
/// # Errors
/// [`Error::Precondition`] if the driver answers that it is not ready; [`Error::Internal`] if there is no answer.
pub async fn probe(socket: &SocketPath, limit: Duration) -> Result<()> {
    let failed = |reason: String| Error::Internal(format!("the driver at `{socket}`: {reason}"));
    let asked = async {
        let channel = Endpoint::from_shared(format!("unix://{socket}"))
            .map_err(|error| failed(error.to_string()))?
            .connect()
            .await
            .map_err(|error| failed(root_cause(&error)))?;
        let answer =
            IdentityClient::new(channel).probe(ProbeRequest {}).await.map_err(|status| failed(status.to_string()))?;
        // A driver that leaves the field out is ready.
        match answer.into_inner().ready {
            Some(false) => Err(Error::Precondition(format!("the driver at `{socket}`: not ready"))),
            Some(true) | None => Ok(()),
        }
    };
    tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(failed(format!("no answer within {limit:?}"))))
}

/// The innermost cause. The library's own text is only "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::socket::Socket;
    use crate::server::telemetry::Calls;
    use crate::server::{self, Services};
    use crate::service::identity::{DriverName, Identity, Readiness};
    use crate::service::proto::csi::identity_server::IdentityServer;

    const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

    fn path_in(directory: &tempfile::TempDir) -> SocketPath {
        SocketPath::parse("", directory.path().join("csi.sock").to_str().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn the_result_is_the_drivers_readiness() {
        let directory = tempfile::tempdir().unwrap();
        let path = path_in(&directory);
        let readiness = Readiness::default();
        let identity = Identity::new(DriverName::parse("", "x").unwrap(), true, readiness.clone());
        let (socket, mut services) = (Socket::bind(&path).unwrap(), Services::default());
        services.add(IdentityServer::new(identity));
        tokio::spawn(server::run(
            socket,
            services,
            Calls::new(Default::default()),
            std::future::pending(),
            PROBE_TIMEOUT,
        ));
        assert!(matches!(probe(&path, PROBE_TIMEOUT).await, Err(Error::Precondition(_))));
        readiness.serving();
        assert_eq!(probe(&path, PROBE_TIMEOUT).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_does_not_answer_is_reported_within_the_time_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = path_in(&directory);
        let _silent = Socket::bind(&path).unwrap();
        let error = probe(&path, PROBE_TIMEOUT).await.unwrap_err().to_string();
        assert!(error.contains("no answer within 3s"), "{error}");
    }
}
