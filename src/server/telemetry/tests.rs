use std::future::pending;
use std::sync::Mutex;

use rstest::rstest;
use tower::{Layer, ServiceExt};

use super::*;
use crate::nfs::text::Format;
use crate::server::status as server_status;
use crate::service::call_span::{server, volume};
use crate::testing::log::{Logging, log_to};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs to memory until the guard is dropped.
fn logging(format: Format, verbosity: u32) -> (Log, Logging) {
    let log = Log::default();
    let writer = log.clone();
    let guard = log_to(subscriber(format, verbosity, move || writer.clone(), None));
    (log, guard)
}

/// Serves one call of `method` that ends with `status`, for the volume `id` and the server `name`.
async fn call(calls: &Calls, method: &str, id: &'static str, name: &'static str, status: Status) -> Response<Body> {
    let service = tower::service_fn(move |_: Request<Body>| {
        let status = status.clone();
        async move {
            volume(id);
            server(name);
            Ok::<_, Infallible>(match status.code() {
                Code::Ok => Response::new(Body::empty()),
                _ => status.into_http(),
            })
        }
    });
    let request = Request::builder().uri(format!("/csi.v1.Node/{method}")).body(Body::empty()).unwrap();
    calls.layer(service).oneshot(request).await.unwrap()
}

fn calls() -> Calls {
    Calls::new(Arc::default())
}

#[tokio::test]
async fn a_call_is_one_line_with_its_volume_server_code_and_time() {
    let (log, _guard) = logging(Format::Json, 0);
    call(&calls(), "NodePublishVolume", "s#a#b##", "nfs.example", Status::not_found("no such volume")).await;
    let [line] = &log.lines()[..] else { panic!("{}", log.text()) };
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["span"]["method"], "NodePublishVolume");
    assert_eq!(line["span"]["volume"], "s#a#b##");
    assert_eq!(line["span"]["server"], "nfs.example");
    assert_eq!((&line["level"], &line["code"]), (&"WARN".into(), &"NotFound".into()));
    assert_eq!(line["error"], "no such volume");
    assert!(line["ms"].is_number());
}

#[rstest]
#[case("NodePublishVolume", Status::ok(""), 0, "INFO")]
#[case("Probe", Status::ok(""), 0, "")]
#[case("Probe", Status::ok(""), 3, "DEBUG")]
#[case("NodeGetCapabilities", Status::ok(""), 2, "")]
#[case("Probe", Status::unavailable("x"), 0, "WARN")]
#[case("CreateVolume", Status::internal("x"), 0, "ERROR")]
#[tokio::test]
async fn the_log_level_of_a_call_depends_on_method_and_code(
    #[case] method: &str,
    #[case] status: Status,
    #[case] verbosity: u32,
    #[case] level: &str,
) {
    let (log, _guard) = logging(Format::Text, verbosity);
    call(&calls(), method, "v", "s", status).await;
    assert_eq!(log.lines().len(), usize::from(!level.is_empty()), "{}", log.text());
    assert!(log.text().contains(level), "{}", log.text());
}

#[rstest]
#[tokio::test]
async fn a_caller_s_text_cannot_start_a_new_line_in_the_log(#[values(Format::Text, Format::Json)] format: Format) {
    let (log, _guard) = logging(format, 5);
    let hostile = "v\n2026-01-01 ERROR forged\u{1b}[2J\r\u{85}\u{2028}";
    call(&calls(), "NodePublishVolume", hostile, hostile, Status::internal(hostile)).await;
    tracing::warn!(error = %hostile, "{hostile}");
    assert_eq!(log.lines().len(), 2);
    let text = log.text();
    assert!(!text.trim_end_matches('\n').replace('\n', "").contains(|c: char| c.is_control() || c == '\u{2028}'));
}

#[tokio::test]
async fn huge_identifiers_and_messages_are_truncated_in_the_log() {
    let (log, _guard) = logging(Format::Text, 0);
    let huge = "é".repeat(100_000).leak();
    call(&calls(), "NodePublishVolume", huge, huge, Status::internal(&*huge)).await;
    assert!(log.text().contains('é') && log.text().len() < 3000, "{}", log.text().len());
}

#[tokio::test]
async fn calls_are_measured_and_unknown_methods_share_one_name() {
    let metrics = Arc::new(Metrics::default());
    let calls = Calls::new(metrics.clone());
    call(&calls, "NodePublishVolume", "v", "s", Status::ok("")).await;
    call(&calls, "No%0aSuch", "v", "s", Status::unimplemented("")).await;
    let scraped = metrics.scrape();
    assert!(scraped.contains("rpc_duration_seconds_count{method=\"NodePublishVolume\",code=\"OK\"} 1"), "{scraped}");
    assert!(scraped.contains("rpc_duration_seconds_count{method=\"unknown\",code=\"Unimplemented\"} 1"), "{scraped}");
    assert!(scraped.contains("rpcs_in_flight{method=\"NodePublishVolume\"} 0"), "{scraped}");
    assert_eq!(calls.in_flight(), 0);
}

fn endless() -> impl tower::Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
> {
    tower::service_fn(|_: Request<Body>| pending())
}

#[tokio::test]
async fn a_call_whose_caller_gave_up_is_logged_as_cancelled() {
    let (log, _guard) = logging(Format::Text, 0);
    let calls = calls();
    let request = Request::builder().uri("/csi.v1.Controller/CreateVolume").body(Body::empty()).unwrap();
    let call = calls.layer(endless()).oneshot(request);
    assert!(tokio::time::timeout(std::time::Duration::ZERO, call).await.is_err());
    assert_eq!((calls.in_flight(), log.lines().len()), (0, 1));
    assert!(log.text().contains("code=\"Cancelled\""), "{}", log.text());
}

#[tokio::test]
async fn a_call_that_is_cut_off_tells_its_caller_to_retry() {
    let calls = calls();
    let call = tokio::spawn(calls.layer(endless()).oneshot(Request::new(Body::empty())));
    tokio::task::yield_now().await;
    assert_eq!(calls.cut(), 1);
    let response = call.await.unwrap().unwrap();
    assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::Unavailable);
    assert_eq!(calls.in_flight(), 0);
}

#[tokio::test]
async fn a_status_has_the_calls_that_run_and_the_last_ten_that_failed_with_what_they_are_about() {
    let (_log, _guard) = logging(Format::Text, 0);
    let calls = calls();
    let told = || {
        let mut status = server_status::Status::default();
        calls.tell(&mut status);
        status
    };
    let waiting = tower::service_fn(|_: Request<Body>| async {
        volume("pvc\n1");
        server("nfs");
        pending::<Result<Response<Body>, Infallible>>().await
    });
    let request = Request::builder().uri("/csi.v1.Controller/CreateVolume").body(Body::empty()).unwrap();
    let running = tokio::spawn(calls.layer(waiting).oneshot(request));
    tokio::task::yield_now().await;
    let [call] = &told().calls[..] else { panic!("{:?}", told()) };
    assert_eq!((&*call.method, &*call.volume, &*call.server), ("CreateVolume", "pvc\\n1", "nfs"));
    running.abort();
    running.await.unwrap_err();
    assert_eq!((told().calls.len(), &*told().failures[0].code), (0, "Cancelled"));

    for number in 0..12 {
        let id: &'static str = format!("v{number}").leak();
        call_of(&calls, "CreateVolume", id, Status::unavailable("no\nserver")).await;
        call_of(&calls, "CreateVolume", id, Status::aborted("a copy goes on")).await;
        call_of(&calls, "CreateVolume", id, Status::ok("")).await;
    }
    let failures = told().failures;
    let volumes: Vec<&str> = failures.iter().map(|failure| &*failure.volume).collect();
    assert_eq!(volumes, ["v11", "v10", "v9", "v8", "v7", "v6", "v5", "v4", "v3", "v2"]);
    let last = &failures[0];
    assert_eq!((&*last.method, &*last.code, &*last.message), ("CreateVolume", "Unavailable", "no\\nserver"));
}

async fn call_of(calls: &Calls, method: &str, id: &'static str, status: Status) {
    call(calls, method, id, "s", status).await;
}
