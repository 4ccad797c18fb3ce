//! Traces by OTLP, for `--otlp-endpoint`: a span for each call and each copy, with the waits and system calls in it that
//! took long (see `mount/slow.rs`). Without the flag nothing here runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Status, TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tonic::Code;
use tracing::level_filters::LevelFilter;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Filter, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::{CALL, is_routine};
use crate::error::{Error, Result};
use crate::mount::slow;

/// How long the collector may take for a batch of spans.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends spans to a collector.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Traces that go to `endpoint`, `http://HOST:PORT`, over gRPC. `attributes` say which process they are of. Needs a
    /// runtime.
    pub fn to(endpoint: &str, attributes: impl IntoIterator<Item = (&'static str, String)>) -> Result<Self> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(PATIENCE)
            .build()
            .map_err(|error| Error::invalid("--otlp-endpoint", format!("`{endpoint}`: {error}")))?;
        let attributes = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value));
        let resource = Resource::builder().with_service_name("csi-nfs").with_attributes(attributes).build();
        let exporter = Exporter { inner: exporter, endpoint: endpoint.to_owned(), fails: AtomicBool::new(false) };
        Ok(Self(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
    }

    /// The layer that makes spans.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(env!("CARGO_CRATE_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter())
    }

    /// Sends what is left, for a few seconds at most.
    pub async fn close(self) {
        // It blocks, and needs this thread's runtime meanwhile.
        let closed = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(PATIENCE));
        let _late = tokio::time::timeout(PATIENCE, closed).await;
    }
}

/// What is in a trace: what the log has without `--v`, and what took long.
fn filter<S>() -> impl Filter<S> {
    Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO)
        .with_target(slow::TARGET, LevelFilter::TRACE)
}

/// Says in a call's span how the call ended.
pub(super) fn ended(span: &Span, code: Code, message: &str) {
    span.set_attribute("rpc.grpc.status_code", i64::from(i32::from(code)));
    if code != Code::Ok {
        span.set_status(Status::error(message.to_owned()));
    }
}

/// Sends spans, and tells the log when that begins to fail and when it works again.
#[derive(Debug)]
struct Exporter<E> {
    inner: E,
    endpoint: String,
    fails: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Exporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let batch: Vec<SpanData> = batch.into_iter().filter_map(named).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let sent = self.inner.export(batch).await;
        let fails = sent.is_err();
        if self.fails.swap(fails, Ordering::Relaxed) != fails {
            match &sent {
                Ok(()) => tracing::info!(endpoint = self.endpoint, "traces are sent again"),
                Err(error) => tracing::warn!(
                    endpoint = self.endpoint, %error,
                    "traces cannot be sent and are dropped; check --otlp-endpoint, and that the collector takes OTLP \
                     over gRPC there"
                ),
            }
        }
        sent
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(limit)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// A span under the name of its method; `None` for a call that comes every few seconds and tells nothing.
fn named(mut span: SpanData) -> Option<SpanData> {
    if span.name == CALL {
        let method = span.attributes.iter().find(|attribute| attribute.key.as_str() == "method");
        let method = method.map(|attribute| attribute.value.as_str().into_owned())?;
        if is_routine(&method) && span.status == Status::Unset {
            return None;
        }
        span.name = method.into();
    }
    Some(span)
}
