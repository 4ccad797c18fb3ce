//! Health and metrics over HTTP/1.1: `/healthz` (the process is alive), `/readyz` (it can serve, as in Probe) and
//! `/metrics`. Clients may be hostile: the server limits the number and duration of connections and the size of
//! requests, and does not read bodies.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::server::exposition;
use crate::server::metrics::Metrics;
use crate::service::identity::{Readiness, State};

/// The maximum number of connections at a time. More connections wait in the kernel.
const CONNECTIONS: usize = 32;
/// How long a client may take to send the head of its request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);
/// The maximum size of a request's head in bytes.
const HEAD_MAX: usize = 16 * 1024;
/// The pause after a failed accept. The usual cause is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Listens on the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Error::Internal(format!("listening on {address} for --http-endpoint: {error}")))
}

/// Serves until the future is dropped. Open connections then end by themselves within seconds.
pub async fn serve(listener: TcpListener, readiness: Readiness, metrics: Arc<Metrics>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (readiness, metrics) = (readiness.clone(), metrics.clone());
                tokio::spawn(async move {
                    serve_connection(stream, readiness, metrics).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an HTTP connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, readiness: Readiness, metrics: Arc<Metrics>) {
    let service = service_fn(|request: Request<Incoming>| {
        let (readiness, metrics) = (readiness.clone(), metrics.clone());
        async move { Ok::<_, Infallible>(respond(&request, readiness.state(), &metrics).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "serving an HTTP connection failed"),
        Err(_) => tracing::debug!("closed an HTTP connection that lasted too long"),
    }
}

async fn respond(request: &Request<Incoming>, state: State, metrics: &Arc<Metrics>) -> Response<Full<Bytes>> {
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/healthz" => answer(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => match state {
            State::Serving => answer(StatusCode::OK, TEXT, "ok\n"),
            State::Starting => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "starting\n"),
            State::Draining => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "going down\n"),
        },
        "/metrics" => match metrics.scrape_apart().await {
            Some(scraped) if accepts_openmetrics(request) => answer(StatusCode::OK, OPENMETRICS, scraped),
            Some(scraped) => answer(StatusCode::OK, PROMETHEUS, exposition::text(&scraped)),
            None => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "going down\n"),
        },
        _ => answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
    }
}

fn accepts_openmetrics(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get_all(ACCEPT).into_iter();
    accepted.filter_map(|value| value.to_str().ok()).any(exposition::accepts_openmetrics)
}

fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(readiness: Readiness) -> SocketAddr {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, readiness, Arc::default()));
        address
    }

    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.to_lowercase()
    }

    async fn get(address: SocketAddr, path: &'static str) -> String {
        exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }

    #[tokio::test]
    async fn the_process_is_alive_before_it_is_ready_and_while_it_shuts_down() {
        let readiness = Readiness::default();
        let address = start(readiness.clone()).await;
        assert!(get(address, "/healthz").await.starts_with("http/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("http/1.1 503"));
        readiness.serving();
        assert!(get(address, "/readyz").await.starts_with("http/1.1 200"));
        readiness.draining();
        assert!(get(address, "/readyz").await.starts_with("http/1.1 503"));
        assert!(get(address, "/healthz").await.starts_with("http/1.1 200"));
    }

    #[tokio::test]
    async fn metrics_have_the_format_that_the_client_accepts() {
        let address = start(Readiness::default()).await;
        let openmetrics = exchange(
            address,
            "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n",
        )
        .await;
        let (head, body) = openmetrics.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
        assert!(body.contains("# type csi_nfs_build info") && body.ends_with("# eof\n"), "{body}");
        let text = get(address, "/metrics").await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(body.contains("# type csi_nfs_build_info gauge") && !body.contains("# eof"), "{body}");
    }

    #[rstest]
    #[case("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", "404")]
    #[case("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "405")]
    #[case("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", "405")]
    #[case("nonsense\r\n\r\n", "400")]
    #[tokio::test]
    async fn invalid_requests_get_an_error(#[case] request: &str, #[case] status: &str) {
        let answer = exchange(start(Readiness::default()).await, request).await;
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{answer}");
    }

    #[tokio::test]
    async fn a_response_to_head_has_no_body() {
        let answer = exchange(start(Readiness::default()).await, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("http/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_end_and_free_their_slots() {
        let address = start(Readiness::default()).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(get(address, "/healthz").await.starts_with("http/1.1 200"));
    }

    #[rstest]
    #[case::complete("\r\nHost: x\r\n\r\n")]
    #[case::endless("")]
    #[tokio::test]
    async fn a_head_that_is_too_large_is_rejected_before_its_end(#[case] end: &str) {
        let address = start(Readiness::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET /healthz HTTP/1.1\r\nX: {}{end}", "a".repeat(HEAD_MAX));
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The server may reset the connection, because it has not read everything.
        let _ = stream.read_to_end(&mut answer).await;
        // Without the limit, the first head gets 200, and the other nothing when its time is up.
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn a_collector_that_waits_holds_up_nobody_but_scrapes() {
        let (listener, metrics) = (bind("127.0.0.1:0".parse().unwrap()).await.unwrap(), Arc::new(Metrics::default()));
        let address = listener.local_addr().unwrap();
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let (began, mut begun) = tokio::sync::mpsc::channel(8);
        let finished = std::sync::Mutex::new(finished);
        metrics.gauge("slow", "A file that takes long to read", move || {
            began.blocking_send(()).unwrap();
            finished.lock().unwrap().recv().unwrap();
            Vec::new()
        });
        tokio::spawn(serve(listener, Readiness::default(), metrics.clone()));
        let scrapes = [tokio::spawn(get(address, "/metrics")), tokio::spawn(get(address, "/metrics"))];
        begun.recv().await.unwrap();
        assert!(get(address, "/healthz").await.starts_with("http/1.1 200"));
        // Calls are counted meanwhile.
        metrics.call_started("Probe");
        assert!(begun.try_recv().is_err(), "one collects at a time");
        for _ in &scrapes {
            finish.send(()).unwrap();
        }
        for scrape in scrapes {
            assert!(scrape.await.unwrap().starts_with("http/1.1 200"));
        }
    }
}
