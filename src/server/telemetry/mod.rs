//! The format of the log, and the layer that logs and counts each call.
//!
//! Each call is one line, logged at its end: method, volume, server, gRPC code, milliseconds, and the message of an
//! error. The log never contains a request or a secret. A layer cannot read the message of a call, so the service names
//! the volume and the server with `volume` and `server` of `service::call_span`. Lines during the call contain them
//! too.

mod recent;
mod traces;

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, Span, Subscriber, field};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt};

use crate::export::locks::ANSWER_BY;
use crate::nfs::text::{Format, one_line};
use crate::server::metrics::Metrics;
use crate::server::status::Status as Told;
use crate::service::call_span::{ABOUT, About};
use crate::service::deadline;
use recent::Recent;
pub use traces::Traces;

/// The maximum size in bytes of an error's message in the log.
const MESSAGE_MAX: usize = 2048;

/// The name of the span of a call.
const CALL: &str = "call";

/// The subscriber that writes the log, for [`tracing::subscriber::set_global_default`], and makes traces. `verbosity` is
/// klog's `-v` and applies to the driver's own events in the log: below 3 is info, 3 and 4 are debug, 5 and more are
/// trace. Libraries log from warnings on.
pub fn subscriber<W>(
    format: Format,
    verbosity: u32,
    writer: W,
    traces: Option<&Traces>,
) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = match verbosity {
        0..3 => LevelFilter::INFO,
        3..5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target(env!("CARGO_CRATE_NAME"), level);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(OneLine(writer));
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(traces.map(Traces::layer)).with(lines.with_filter(filter))
}

/// Makes writers that put each event on one line. Each event arrives in one write.
struct OneLine<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine(self.0.make_writer())
    }
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let mut line = one_line(text.strip_suffix('\n').unwrap_or(&text)).into_owned();
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The calls that a server serves: a layer that logs and counts calls, and cuts them off at shutdown.
#[derive(Debug, Clone)]
pub struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Arc<Metrics>,
    in_flight: AtomicUsize,
    recent: Recent,
    cut: CancellationToken,
}

impl Calls {
    /// A layer that counts in these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let (in_flight, recent, cut) = (AtomicUsize::new(0), Recent::default(), CancellationToken::new());
        Self(Arc::new(Inner { metrics, in_flight, recent, cut }))
    }

    /// How many calls are being served.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// Adds the calls that are being served, and the last ones that failed, to a status.
    pub fn tell(&self, status: &mut Told) {
        self.0.recent.tell(status);
    }

    /// Ends all current and all later calls with UNAVAILABLE. Returns the number of current calls.
    pub fn cut(&self) -> usize {
        self.0.cut.cancel();
        self.in_flight()
    }
}

impl<S> tower::Layer<S> for Calls {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, calls: self.clone() }
    }
}

/// A service whose calls are logged and counted.
#[derive(Debug, Clone)]
pub struct Observed<S> {
    inner: S,
    calls: Calls,
}

impl<S> tower::Service<Request<Body>> for Observed<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = Call::start(&self.calls, method(request.uri().path()));
        let until = deadline::of_call(request.headers());
        let serving = ANSWER_BY.scope(until, ABOUT.scope(call.about.clone(), self.inner.call(request)));
        let serving = serving.instrument(call.span.clone());
        let cut = self.calls.0.cut.clone();
        Box::pin(async move {
            let response = tokio::select! {
                biased;
                response = serving => response?,
                () = cut.cancelled() => Status::unavailable("the driver is shutting down; call again").into_http(),
            };
            // A unary call that failed has its status in the headers. A successful call has OK in the trailers.
            match Status::from_header_map(response.headers()) {
                Some(status) => call.end(status.code(), status.message()),
                None => call.end(Code::Ok, ""),
            }
            Ok(response)
        })
    }
}

/// The method in a call's path. Other text is `unknown`, so that it does not become a label of a metric.
fn method(path: &str) -> &str {
    path.strip_prefix("/csi.v1.")
        .and_then(|service_and_method| service_and_method.split_once('/'))
        .map(|(_, method)| method)
        .filter(|method| method.len() <= 48 && method.bytes().all(|b| b.is_ascii_alphabetic()))
        .unwrap_or("unknown")
}

/// Frequent calls whose success is not worth a line at info.
fn is_routine(method: &str) -> bool {
    matches!(
        method,
        "Probe"
            | "GetPluginInfo"
            | "GetPluginCapabilities"
            | "ControllerGetCapabilities"
            | "NodeGetCapabilities"
            | "NodeGetVolumeStats"
            | "NodeGetVolumeHealth"
            | "NodeGetStorageHealth"
    )
}

/// A call that is being served. A drop before its end means that the caller gave up.
struct Call {
    calls: Calls,
    method: String,
    about: Arc<About>,
    number: u64,
    span: Span,
    started: Instant,
    ended: bool,
}

impl Call {
    fn start(calls: &Calls, method: &str) -> Self {
        calls.0.in_flight.fetch_add(1, Ordering::Relaxed);
        calls.0.metrics.call_started(method);
        let about = Arc::default();
        Self {
            calls: calls.clone(),
            method: method.to_owned(),
            number: calls.0.recent.started(method, &about),
            about,
            span: tracing::info_span!(
                CALL,
                method,
                volume = field::Empty,
                server = field::Empty,
                export = field::Empty
            ),
            started: Instant::now(),
            ended: false,
        }
    }

    fn end(mut self, code: Code, message: &str) {
        self.record(code, message);
    }

    fn record(&mut self, code: Code, message: &str) {
        self.ended = true;
        let took = self.started.elapsed();
        let name = match code {
            Code::Ok => Cow::Borrowed("OK"),
            other => Cow::Owned(format!("{other:?}")),
        };
        self.calls.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.calls.0.metrics.call_ended(&self.method, &name, took);
        let message = &message[..message.floor_char_boundary(MESSAGE_MAX)];
        self.calls.0.recent.ended(self.number, (code, &name), message);
        traces::ended(&self.span, code, message);
        let _entered = self.span.enter();
        let (code_name, ms) = (&*name, (took.as_secs_f64() * 1e4).round() / 10.0);
        match code {
            Code::Ok if is_routine(&self.method) => tracing::debug!(code = code_name, ms, "served"),
            Code::Ok => tracing::info!(code = code_name, ms, "served"),
            Code::Internal | Code::Unknown | Code::DataLoss => {
                tracing::error!(code = code_name, ms, error = message, "failed");
            }
            _ => tracing::warn!(code = code_name, ms, error = message, "failed"),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.record(Code::Cancelled, "the caller gave up, or its deadline passed");
        }
    }
}

#[cfg(test)]
mod tests;
