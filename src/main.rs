//! The `csi-nfs` binary: it reads the configuration, prepares the process, runs the task, and reports the result.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::future::Future;
use std::io::{IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use csi_nfs::config::{
    self, AgentConfig, BundleConfig, CheckConfig, Config, DoctorConfig, Refusal, StatusConfig, Task,
};
use csi_nfs::doctor::{self, Verdict};
use csi_nfs::error::Error;
use csi_nfs::nfs::text::one_line;
use csi_nfs::server::telemetry::{Traces, subscriber};
use csi_nfs::server::{admin, probe};
use csi_nfs::{bundle as issue, check, driver};

/// EX_USAGE of sysexits.h: bad configuration.
const BAD_CONFIGURATION: u8 = 64;
/// EX_UNAVAILABLE of sysexits.h: the export cannot be read, its file system lacks what the agent needs, or the kernel
/// cannot mount NFS.
const UNAVAILABLE: u8 = 69;
/// How long `csi-nfs probe` waits for an answer.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// The maximum number of threads for blocking calls. The gate gives each export 10, so 200 exports can hang before
/// calls to others wait.
const BLOCKING_THREADS: usize = 2048;

fn main() -> ExitCode {
    let done = match config::parse(std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(Task::Serve(config)) => serve(*config),
        Ok(Task::Agent(config)) => enforce(config),
        Ok(Task::Probe(socket)) => match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(probe::probe(&socket, PROBE_LIMIT)).map_err(Into::into),
            Err(error) => Err(error.into()),
        },
        Ok(Task::Status(config)) => status(&config),
        Ok(Task::Bundle(config)) => bundle(&config),
        Ok(Task::Check(config)) => return check(&config),
        Ok(Task::Doctor(config)) => return examine(&config),
        Err(Refusal::Shown(text)) => {
            // A failed write does not matter: the reader of standard output may be gone.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(Refusal::Bad(line)) => {
            complain(line);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error:#}"));
            match error.downcast_ref() {
                Some(Error::Precondition(_)) => ExitCode::from(UNAVAILABLE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Writes one line to standard error.
fn complain(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "csi-nfs: {}", one_line(&what.to_string()));
}

/// Raises the limit of open files to its maximum: the walk of a tree holds a descriptor for each directory on its path.
fn raise_descriptor_limit() -> std::io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Runs the agent on one thread: the agent has nothing else to do while it waits for the file system.
fn enforce(config: AgentConfig) -> anyhow::Result<()> {
    tracing::subscriber::set_global_default(subscriber(config.log_format, config.verbosity, std::io::stderr, None))?;
    rustix::process::umask(Mode::empty());
    raise_descriptor_limit()?;
    let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build()?;
    let done = runtime.block_on(async { driver::agent::run(config, terminated()?).await.map_err(anyhow::Error::from) });
    runtime.shutdown_background();
    done
}

/// Prints what the driver tells that runs.
fn status(config: &StatusConfig) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let told = runtime.block_on(admin::ask(&config.socket))?;
    // A failed write does not matter: the reader of standard output may be gone.
    let _ = std::io::stdout().write_all(told.print(config.format).as_bytes());
    Ok(())
}

/// Writes a bundle to a new file, which only its owner can read, or to standard output.
fn bundle(config: &BundleConfig) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let to: Box<dyn Write> = match &config.output {
        Some(path) => {
            let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Box::new(opened.with_context(|| format!("creating `{}` for --output", path.display()))?)
        }
        None if std::io::stdout().is_terminal() => {
            anyhow::bail!("a tar is nothing for a terminal: name a file with --output, or redirect it into one")
        }
        None => Box::new(std::io::stdout().lock()),
    };
    let written = runtime.block_on(issue::write(&config.settings, to));
    runtime.shutdown_background();
    Ok(written?)
}

fn check(config: &CheckConfig) -> ExitCode {
    let checked = Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from).and_then(|runtime| {
        let report = runtime.block_on(check::run(&config.settings));
        runtime.shutdown_background();
        Ok(report?)
    });
    match checked {
        Ok(report) => {
            // A failed write does not matter: the reader of standard output may be gone.
            let _ = std::io::stdout().write_all(report.print(config.format).as_bytes());
            if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::from(UNAVAILABLE)
        }
    }
}

fn examine(config: &DoctorConfig) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(error);
            return ExitCode::from(UNAVAILABLE);
        }
    };
    rustix::process::umask(Mode::empty());
    let report = runtime.block_on(doctor::run(&config.settings));
    runtime.shutdown_background();
    let _ = std::io::stdout().write_all(report.print(config.format).as_bytes());
    if report.count(Verdict::Bad) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn serve(config: Config) -> anyhow::Result<()> {
    // One thread is enough, because blocking calls run on other threads. With two threads, calls would move between
    // them.
    let runtime = Builder::new_current_thread().max_blocking_threads(BLOCKING_THREADS).enable_all().build()?;
    let traces = traces(&config, &runtime)?;
    let log = subscriber(config.log_format, config.verbosity, std::io::stderr, traces.as_ref());
    tracing::subscriber::set_global_default(log)?;
    // New objects on an export get exactly the requested mode.
    rustix::process::umask(Mode::empty());
    raise_descriptor_limit()?;

    let done = runtime.block_on(async {
        let done = driver::run(config, terminated()?).await;
        if let Some(traces) = traces {
            traces.close().await;
        }
        done.map_err(anyhow::Error::from)
    });
    // Do not wait for threads: a thread that hangs on an unreachable server ends only with the process.
    runtime.shutdown_background();
    done
}

/// The traces that `--otlp-endpoint` asks for.
fn traces(config: &Config, runtime: &Runtime) -> anyhow::Result<Option<Traces>> {
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
    let node = config.node.as_ref().map(|node| ("k8s.node.name", node.id.to_string()));
    let version = ("service.version", env!("CARGO_PKG_VERSION").to_owned());
    let driver = ("csi.driver", config.driver_name.to_string());
    let _in_runtime = runtime.enter();
    Ok(Some(Traces::to(endpoint, [version, driver].into_iter().chain(node))?))
}

/// Returns a future that completes at SIGTERM or SIGINT. Signals count from this call on, even before the future is
/// polled.
fn terminated() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping because of a signal");
    })
}
