//! The admin socket, on which the running driver tells its status. A connection gets one JSON object and its end, and
//! nothing is read from it. Only root can connect; there is no way to it over the network.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};
use crate::nfs::text::Format;
use crate::server::socket::SocketPath;
use crate::server::status::{Board, Status};

/// The most connections at a time. More wait in the kernel.
const CONNECTIONS: usize = 4;
/// How long a client may take to read its answer.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long a client waits for its answer.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// The pause after a failed accept. The usual cause is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// The most bytes that a client takes.
const ANSWER_MAX: u64 = 4 << 20;

/// Serves until the future is dropped.
pub async fn serve(listener: UnixListener, board: Arc<Board>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let board = board.clone();
                tokio::spawn(async move {
                    answer(stream, &board).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection on the admin socket failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, board: &Arc<Board>) {
    // A client without an answer says so.
    let Some(status) = board.tell().await else { return };
    let told = status.print(Format::Json);
    let written = async {
        stream.write_all(told.as_bytes()).await?;
        stream.shutdown().await
    };
    match timeout(WRITE_LIMIT, written).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "answering on the admin socket failed"),
        Err(_) => tracing::debug!("a client of the admin socket does not read its answer"),
    }
}

/// Asks the driver whose admin socket this is for its status.
///
/// # Errors
/// [`Error::Internal`] if no driver serves the socket, or if it does not answer.
pub async fn ask(socket: &SocketPath) -> Result<Status> {
    let failed = |reason: &dyn std::fmt::Display| {
        Error::Internal(format!(
            "asking the driver on its admin socket `{socket}`: {reason}; run this as root where the driver runs, with \
             its --endpoint or --admin-socket"
        ))
    };
    let read = async {
        let stream = UnixStream::connect(socket.as_path()).await?;
        let mut told = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut told).await?;
        Ok::<_, std::io::Error>(told)
    };
    let told = match timeout(ASK_LIMIT, read).await {
        Ok(told) => told.map_err(|error| failed(&error))?,
        Err(_) => return Err(failed(&format!("no answer within {ASK_LIMIT:?}"))),
    };
    if told.is_empty() {
        return Err(failed(&"it did not answer in time; it may be short of processor time"));
    }
    serde_json::from_str(&told).map_err(|error| failed(&format!("its answer is not a status: {error}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::server::socket::Socket;

    fn path_in(directory: &tempfile::TempDir) -> SocketPath {
        SocketPath::parse("", directory.path().join("csi.sock.admin").to_str().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn the_status_is_told_to_the_owner_only_and_the_socket_ends_with_the_driver() {
        let directory = tempfile::tempdir().unwrap();
        let (path, board) = (path_in(&directory), Arc::new(Board::default()));
        board.add(|status| status.driver = "d".to_owned());
        let (listener, claim) = Socket::bind(&path).unwrap().into_parts();
        let _serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, board)));
        assert_eq!(ask(&path).await.unwrap().driver, "d");
        assert_eq!(std::fs::metadata(path.as_path()).unwrap().permissions().mode() & 0o777, 0o600);
        drop(claim);
        let error = ask(&path).await.unwrap_err().to_string();
        assert!(error.contains("csi.sock.admin") && error.contains("No such file"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_do_not_read_hold_up_others_for_a_bounded_time() {
        let directory = tempfile::tempdir().unwrap();
        let (path, board) = (path_in(&directory), Arc::new(Board::default()));
        // Larger than a socket's buffer.
        board.add(|status| status.driver = "d".repeat(2 << 20));
        let (listener, _claim) = Socket::bind(&path).unwrap().into_parts();
        let _serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, board)));
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(UnixStream::connect(path.as_path()).await.unwrap());
        }
        assert_eq!(ask(&path).await.unwrap().driver.len(), 2 << 20);
    }

    #[tokio::test]
    async fn an_answer_that_is_no_status_is_an_error_that_names_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = path_in(&directory);
        let (listener, _claim) = Socket::bind(&path).unwrap().into_parts();
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
        };
        let (asked, ()) = tokio::join!(ask(&path), answer);
        let error = asked.unwrap_err().to_string();
        assert!(error.contains("csi.sock.admin") && error.contains("not a status"), "{error}");
    }
}
