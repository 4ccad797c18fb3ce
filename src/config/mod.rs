//! The configuration: the command line and the environment, checked as a whole before anything is opened or bound, in
//! types that cannot hold an invalid value.

mod args;
mod certificates;
mod registration;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::agent;
use crate::bundle;
use crate::check;
use crate::doctor;
use crate::error::{Error, Result};
use crate::export::client::Choice;
use crate::nfs::options::MountOptions;
use crate::nfs::source::{Server, Share, Source};
use crate::nfs::text::{Format, one_line};
use crate::nfs4::tls::TlsFiles;
use crate::server::socket::SocketPath;
use crate::service::controller;
use crate::service::identity::{DriverName, NodeId};
use crate::volume::delete::DeletePolicy;
use crate::volume::exports::Configured;
use crate::volume::on_delete::OnDelete;
use crate::volume::parameters::{Attributes, parse_mode};

use args::{Args, Command};
use certificates::certificates;
use registration::registration;

/// What the program should do.
#[derive(Debug)]
pub enum Task {
    /// Run the driver.
    Serve(Box<Config>),
    /// Ask the driver that listens on this socket whether it can serve.
    Probe(SocketPath),
    /// Ask the driver that runs for its status.
    Status(StatusConfig),
    /// Write what an issue needs.
    Bundle(BundleConfig),
    /// Enforce the sizes of volumes on the NFS server.
    Agent(AgentConfig),
    /// Check an export.
    Check(CheckConfig),
    /// Examine an export.
    Doctor(DoctorConfig),
}

/// The configuration of the agent.
#[derive(Debug)]
pub struct AgentConfig {
    /// `--path` and `--project-ids`.
    pub settings: agent::Settings,
    /// `--http-endpoint`.
    pub http_endpoint: Option<SocketAddr>,
    /// `--log-format`.
    pub log_format: Format,
    /// `--v`: klog's verbosity.
    pub verbosity: u32,
}

/// The configuration of `csi-nfs status`.
#[derive(Debug)]
pub struct StatusConfig {
    /// `--admin-socket`, or what follows from `--endpoint`.
    pub socket: SocketPath,
    /// `--format`.
    pub format: Format,
}

/// The configuration of `csi-nfs bundle`.
#[derive(Debug)]
pub struct BundleConfig {
    /// `--log`, `--export`, and where the driver is asked.
    pub settings: bundle::Settings,
    /// `--output`; standard output otherwise.
    pub output: Option<PathBuf>,
}

/// The configuration of `csi-nfs check`.
#[derive(Debug)]
pub struct CheckConfig {
    /// `--export`, `--mount-options` and `--repair`.
    pub settings: check::Settings,
    /// `--format`.
    pub format: Format,
}

/// The configuration of `csi-nfs doctor`.
#[derive(Debug)]
pub struct DoctorConfig {
    /// `--export` and `--mount-options`.
    pub settings: doctor::Settings,
    /// `--format`.
    pub format: Format,
}

/// Why the program runs no task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Help or the version was requested: the text for standard output.
    Shown(String),
    /// The configuration is invalid: what is wrong, on one line.
    Bad(String),
}

/// The services that an instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Controller,
    Node,
    All,
}

/// The configuration of a driver.
#[derive(Debug)]
pub struct Config {
    /// `--drivername`.
    pub driver_name: DriverName,
    /// `--endpoint`: the CSI socket.
    pub endpoint: SocketPath,
    /// `--admin-socket`, or what follows from `--endpoint`.
    pub admin_socket: SocketPath,
    /// The flags that were given, also by the environment.
    pub given: Vec<String>,
    /// The controller's part, if `--mode` includes it.
    pub controller: Option<ControllerConfig>,
    /// The node's part, if `--mode` includes it.
    pub node: Option<NodeConfig>,
    /// `--http-endpoint`.
    pub http_endpoint: Option<SocketAddr>,
    /// `--otlp-endpoint`.
    pub otlp_endpoint: Option<String>,
    /// `--log-format`.
    pub log_format: Format,
    /// `--v`: klog's verbosity.
    pub verbosity: u32,
    /// `--shutdown-grace`.
    pub shutdown_grace: Duration,
}

/// The configuration of the Controller service.
#[derive(Debug)]
pub struct ControllerConfig {
    /// The settings of the service itself.
    pub settings: controller::Settings,
    /// `--export`: exports that listings include from the start.
    pub exports: Vec<Source>,
    /// `--copy-workers`: entries of a tree that are copied at the same time.
    pub copy_workers: usize,
    /// `--client`: which client reaches exports.
    pub client: Choice,
    /// `--client-name`: what servers know the driver's own client by.
    pub client_name: Option<String>,
    /// `--tls-ca`, `--tls-cert` and `--tls-key`.
    pub certificates: TlsFiles,
}

/// The configuration of the Node service.
#[derive(Debug)]
pub struct NodeConfig {
    /// `--nodeid`.
    pub id: NodeId,
    /// `--mount-options`: for volumes that name none.
    pub mount_options: MountOptions,
    /// `--mount-permissions`: for volumes that name none; `None` leaves the mode of a directory unchanged.
    pub mount_permissions: Option<u32>,
    /// `--vol-stats-cache-expire-in-minutes`; zero disables the cache.
    pub stats_cache: Duration,
    /// `--enable-inline-volumes`.
    pub inline_volumes: bool,
    /// `--registration-socket` and `--kubelet-socket-path`.
    pub registration: Option<RegistrationConfig>,
}

/// How the node registers with kubelet.
#[derive(Debug)]
pub struct RegistrationConfig {
    /// Where kubelet looks for plugins.
    pub socket: SocketPath,
    /// The CSI socket as kubelet sees it.
    pub endpoint: SocketPath,
}

/// Parses the command line, which starts with the program's name, and the environment, which `variable` looks up.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Task, Refusal> {
    let args = Args::read(words, variable).map_err(refusal)?;
    let task = match args.command {
        Some(Command::Agent(agent)) => {
            let settings = agent::Settings { paths: agent.path, project_ids: agent.project_ids };
            let http_endpoint = agent.http_endpoint.or(args.http_endpoint);
            let (log_format, verbosity) = (args.log_format, args.verbosity);
            Ok(Task::Agent(AgentConfig { settings, http_endpoint, log_format, verbosity }))
        }
        Some(Command::Probe) => endpoint("--endpoint", &args.endpoint).map(Task::Probe),
        Some(Command::Bundle { ref log, ref export, ref mount_options, ref output }) => {
            BundleConfig::new(&args, log, (export.as_deref(), mount_options.as_deref()), output).map(Task::Bundle)
        }
        Some(Command::Status { format }) => {
            admin_socket(&args).map(|socket| Task::Status(StatusConfig { socket, format }))
        }
        Some(Command::Check { ref export, ref mount_options, repair, format }) => {
            check_settings(&args, (export, mount_options.as_deref()), repair)
                .map(|settings| Task::Check(CheckConfig { settings, format }))
        }
        Some(Command::Doctor { ref export, ref mount_options, format }) => {
            doctor_settings(&args, (export, mount_options.as_deref()))
                .map(|settings| Task::Doctor(DoctorConfig { settings, format }))
        }
        None => Config::new(args).map(|config| Task::Serve(Box::new(config))),
    };
    task.map_err(|error| Refusal::Bad(one_line(&error.to_string()).into_owned()))
}

impl BundleConfig {
    fn new(
        args: &Args,
        logs: &[PathBuf],
        (export, options): (Option<&str>, Option<&str>),
        output: &Option<PathBuf>,
    ) -> Result<Self> {
        let check = export.map(|export| check_settings(args, (export, options), false));
        let settings = bundle::Settings { logs: logs.to_vec(), socket: admin_socket(args)?, check: check.transpose()? };
        Ok(Self { settings, output: output.clone() })
    }
}

impl Config {
    fn new(args: Args) -> Result<Self> {
        let mount_options = configured(args.mount_options.as_deref(), &args.export_mount_options)?;
        let options = mount_options.all.clone();
        let permissions = permissions("--mount-permissions", &args.mount_permissions)?;
        let on_delete = OnDelete::parse("--default-ondelete-policy", &args.default_ondelete_policy)?;
        let exports = args.export.iter().map(|text| export("--export", text)).collect::<Result<_>>()?;
        let registration = registration(&args)?;
        let certificates = certificates(&args)?;
        let controller = ControllerConfig {
            settings: controller::Settings {
                mount_options,
                defaults: Attributes { on_delete: Some(on_delete), mode: permissions, ..Attributes::default() },
                delete: DeletePolicy { default: on_delete, replace_archive: args.remove_archived_volume_path },
            },
            exports,
            copy_workers: usize::from(args.copy_workers),
            client: args.client,
            client_name: args.client_name.clone(),
            certificates,
        };
        let node = || -> Result<_> {
            Ok(NodeConfig {
                id: NodeId::parse("--nodeid", args.nodeid.as_deref().unwrap_or_default())?,
                mount_options: options,
                mount_permissions: permissions,
                stats_cache: Duration::from_secs(60 * u64::from(args.vol_stats_cache_expire_in_minutes)),
                inline_volumes: args.enable_inline_volumes,
                registration,
            })
        };
        let (controller, node) = match args.mode {
            Mode::Controller => (Some(controller), None),
            Mode::Node => (None, Some(node()?)),
            Mode::All => (Some(controller), Some(node()?)),
        };
        Ok(Self {
            driver_name: DriverName::parse("--drivername", &args.drivername)?,
            endpoint: endpoint("--endpoint", &args.endpoint)?,
            admin_socket: admin_socket(&args)?,
            given: args.given,
            controller,
            node,
            http_endpoint: args.http_endpoint,
            otlp_endpoint: args.otlp_endpoint,
            log_format: args.log_format,
            verbosity: args.verbosity,
            shutdown_grace: args.shutdown_grace,
        })
    }
}

/// `unix:///absolute/path`, `unix:/absolute/path` or `unix://relative/path`.
fn endpoint(field: &str, text: &str) -> Result<SocketPath> {
    let path = match (text.strip_prefix("unix://"), text.strip_prefix("unix:")) {
        (Some(path), _) => path,
        (None, Some(path)) if path.starts_with('/') => path,
        _ => {
            let reason = format!("`{}`: not a Unix socket, such as unix:///csi/csi.sock", text.escape_debug());
            return Err(Error::invalid(field, reason));
        }
    };
    SocketPath::parse(field, path)
}

/// The socket on which the driver tells its status: `--admin-socket`, or one beside the CSI socket.
fn admin_socket(args: &Args) -> Result<SocketPath> {
    const FLAG: &str = "--admin-socket";
    match &args.admin_socket {
        Some(path) => SocketPath::parse(FLAG, path),
        None => SocketPath::parse(FLAG, &format!("{}.admin", endpoint("--endpoint", &args.endpoint)?)),
    }
}

fn check_settings(args: &Args, (share, options): (&str, Option<&str>), repair: bool) -> Result<check::Settings> {
    let (export, mount_options) = mounted(args, share, options)?;
    Ok(check::Settings { export, mount_options, client: args.client, certificates: certificates(args)?, repair })
}

fn doctor_settings(args: &Args, (share, options): (&str, Option<&str>)) -> Result<doctor::Settings> {
    let (export, mount_options) = mounted(args, share, options)?;
    Ok(doctor::Settings { export, mount_options, client: args.client, certificates: certificates(args)? })
}

/// The export of a subcommand, and how it is mounted: with `options`, or with those that the controller uses for it.
fn mounted(args: &Args, share: &str, options: Option<&str>) -> Result<(Source, MountOptions)> {
    let usual = configured(args.mount_options.as_deref(), &args.export_mount_options)?;
    let export = export("--export", share)?;
    let mount_options = match options {
        Some(options) => MountOptions::parse("--mount-options", [options])?,
        None => usual.of(&export).clone(),
    };
    Ok((export, mount_options))
}

/// `--mount-options` and `--export-mount-options`.
fn configured(all: Option<&str>, exports: &[String]) -> Result<Configured> {
    let exports = exports.iter().map(|text| export_options(text)).collect::<Result<_>>()?;
    Ok(Configured { all: MountOptions::parse("--mount-options", all)?, exports })
}

/// `SERVER:/SHARE OPTIONS`. A share may have spaces, and options have none.
fn export_options(text: &str) -> Result<(Source, MountOptions)> {
    const FIELD: &str = "--export-mount-options";
    let (share, options) = text.rsplit_once(' ').ok_or_else(|| {
        let reason =
            format!("`{}`: not SERVER:/SHARE OPTIONS, such as nfs.example:/export vers=4.1", text.escape_debug());
        Error::invalid(FIELD, reason)
    })?;
    Ok((export(FIELD, share.trim_end())?, MountOptions::parse(FIELD, [options])?))
}

/// `SERVER:/SHARE` as in nfs(5).
fn export(field: &str, text: &str) -> Result<Source> {
    let Some((server, share)) = text.split_once(":/") else {
        let reason = format!("`{}`: not SERVER:/SHARE, such as nfs.example:/export", text.escape_debug());
        return Err(Error::invalid(field, reason));
    };
    let server = Server::parse(field, server)?;
    if server.address().is_some_and(|address| address.is_ipv6()) && !text.starts_with('[') {
        return Err(Error::invalid(
            field,
            format!("`{text}`: put the IPv6 address in brackets, as in [{server}]:/{share}"),
        ));
    }
    Ok(Source::share(server, Share::parse(field, &format!("/{share}"))?))
}

/// Permission bits in octal. A number without a leading 0 is an error: csi-driver-nfs reads it as decimal, so `511` and
/// `0777` are the same mode there, and reading it as octal here would silently set another mode.
fn permissions(field: &str, text: &str) -> Result<Option<u32>> {
    if !text.starts_with('0') {
        let reason = format!("`{}`: give the mode in octal, with a leading 0, such as 0770", text.escape_debug());
        return Err(Error::invalid(field, reason));
    }
    parse_mode(field, text)
}

/// Help and the version are not errors. Of an error, the first paragraph is enough: it says what is wrong.
fn refusal(error: clap::Error) -> Refusal {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return Refusal::Shown(text);
    }
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first = text.split("\n\n").next().unwrap_or(text);
    let line = first.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    Refusal::Bad(format!("{}; see csi-nfs --help", one_line(&line)))
}

#[cfg(test)]
mod tests;
