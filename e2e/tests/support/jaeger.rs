//! A Jaeger that takes the driver's traces. `make jaeger` builds it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{http, wait};

/// Where it takes traces, as OTLP over gRPC.
pub const COLLECTOR: &str = "127.0.0.13:4317";
/// Where it answers.
const ANSWERS: &str = "127.0.0.13:16686";

/// A running Jaeger, which keeps traces in memory. Dropping this kills it.
#[derive(Debug)]
pub struct Jaeger(Child);

/// A span that the driver sent.
#[derive(Debug, Clone)]
pub struct Span(Value);

impl Jaeger {
    /// Starts it. Its log is `log`.
    pub async fn start(log: &Path) -> Self {
        let out = File::create(log).unwrap();
        let process = Command::new(program())
            .arg(format!("--collector.otlp.grpc.host-port={COLLECTOR}"))
            .arg(format!("--query.http-server.host-port={ANSWERS}"))
            .args(["--admin.http.host-port=127.0.0.13:14269", "--query.grpc-server.host-port=127.0.0.13:16685"])
            .args(["--collector.grpc-server.host-port=127.0.0.13:14250"])
            .args(["--collector.http-server.host-port=127.0.0.13:14268"])
            .args(["--collector.otlp.http.host-port=127.0.0.13:4318"])
            .env("SPAN_STORAGE_TYPE", "memory")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("jaeger is missing; run `make jaeger` to build it");
        let jaeger = Self(process);
        let listens = || [COLLECTOR, ANSWERS].iter().all(|at| std::net::TcpStream::connect(at).is_ok()).then_some(());
        wait::until("Jaeger's start", Duration::from_secs(60), listens).await;
        jaeger
    }

    /// All spans of the driver's calls and copies of this name.
    pub fn spans(&self, name: &str) -> Vec<Span> {
        let answer = http::get_whole(ANSWERS, "/api/traces?service=csi-nfs&limit=1000");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let traces = body["data"].as_array().into_iter().flatten();
        let spans = traces.flat_map(|trace| trace["spans"].as_array().into_iter().flatten());
        spans.filter(|span| span["operationName"] == name).cloned().map(Span).collect()
    }

    /// Waits until there is a span of this name for which `is_it` holds.
    pub async fn span(&self, name: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        let found = || self.spans(name).into_iter().find(&is_it);
        wait::until(&format!("a span {name}"), Duration::from_secs(30), found).await
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Span {
    /// What it says under a key.
    pub fn tag(&self, key: &str) -> Option<&Value> {
        value(&self.0["tags"], key)
    }

    /// What took long in it.
    pub fn slow(&self) -> Vec<&str> {
        let logs = self.0["logs"].as_array().into_iter().flatten();
        logs.filter_map(|log| value(&log["fields"], "what")?.as_str()).collect()
    }
}

fn value<'a>(fields: &'a Value, key: &str) -> Option<&'a Value> {
    fields.as_array()?.iter().find(|field| field["key"] == key).map(|field| &field["value"])
}

/// The path of the program.
fn program() -> PathBuf {
    super::cached("jaeger/jaeger")
}
