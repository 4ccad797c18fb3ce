//! The command line and the environment as text: names, help, and the ways to pass a flag.
//!
//! A flag `--some-flag` can also be passed as `-some-flag`, as Go's flag package accepts it, and by the environment
//! variable `CSI_NFS_SOME_FLAG`. The command line overrides the environment. An empty value is the same as no value,
//! because manifests use an empty value for "the default". A flag that belongs to all parts of the program may be
//! written before the subcommand or after it.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use hyper::Uri;
use hyper::http::uri::PathAndQuery;

use super::Mode;
use crate::export::client::Choice;
use crate::nfs::text::Format;

/// Flags, and the variables that manifests of CSI drivers set for them by convention. The flag's own variable has
/// precedence.
const CUSTOMARY: [(&str, &str); 2] = [("endpoint", "CSI_ENDPOINT"), ("nodeid", "NODE_ID")];

/// A CSI driver for NFS.
#[derive(Debug, Parser)]
#[command(name = "csi-nfs", version, args_override_self = true, disable_help_subcommand = true)]
pub(super) struct Args {
    /// The CSI socket: unix:///absolute/path or unix://relative/path.
    #[arg(long, global = true, default_value = "unix:///csi/csi.sock")]
    pub(super) endpoint: String,

    /// The node's name in Kubernetes; required for the node service.
    #[arg(long)]
    pub(super) nodeid: Option<String>,

    /// The driver's name. nfs.csi.k8s.io takes over the volumes of csi-driver-nfs.
    #[arg(long, default_value = "csi-nfs.rs")]
    pub(super) drivername: String,

    /// The services to run: controller, node or all.
    #[arg(long, default_value = "all", value_parser = mode)]
    pub(super) mode: Mode,

    /// An export that listings include from the start, as SERVER:/SHARE, with an IPv6 address in brackets. Repeat the
    /// flag, or separate several with commas.
    #[arg(long, value_delimiter = ',')]
    pub(super) export: Vec<String>,

    /// NFS mount options for one export, as "SERVER:/SHARE OPTIONS", used in place of --mount-options. The export is
    /// also one of --export. Repeat the flag, or separate several with semicolons.
    #[arg(long, value_delimiter = ';')]
    pub(super) export_mount_options: Vec<String>,

    /// NFS mount options, separated by commas, for volumes that name none.
    #[arg(long)]
    pub(super) mount_options: Option<String>,

    /// Mode of a volume's directory if its class names none: octal, with a leading 0. 0 leaves the mode unchanged.
    #[arg(long, default_value = "0")]
    pub(super) mount_permissions: String,

    /// What happens to the directory of a deleted volume if its class does not say: delete, retain or archive.
    #[arg(long, default_value = "delete")]
    pub(super) default_ondelete_policy: String,

    /// Let an archived volume replace an archive of the same name. Otherwise it gets another name.
    #[arg(long)]
    pub(super) remove_archived_volume_path: bool,

    /// Entries of a tree that a snapshot, restore or clone copies at the same time, 1 to 64.
    #[arg(long, default_value = "16", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(super) copy_workers: u8,

    /// The NFS client of the controller and of check: kernel, which mounts; own, which needs no privilege and no mount, for
    /// NFS 4.1 and 4.2 over TCP; or auto: own where the server and the options allow it, and otherwise kernel.
    #[arg(long, global = true, default_value = "kernel", value_parser = client)]
    pub(super) client: Choice,

    /// What servers know the own client by: a name that no other driver has while this one runs, and that its successor
    /// may have, such as the UID of its pod. The successor then need not wait for locks. Random if not given.
    #[arg(long, value_name = "NAME")]
    pub(super) client_name: Option<String>,

    /// The authorities that may sign the certificates of servers, for the own client with xprtsec=tls or mtls: a file in
    /// PEM form. Otherwise /etc/ssl/certs/ca-certificates.crt.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) tls_ca: Option<PathBuf>,

    /// The certificate that the own client shows to servers with xprtsec=mtls: a file in PEM form.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,

    /// The key of --tls-cert: a file in PEM form.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,

    /// Minutes for which a volume's statistics are cached. 0 asks each time.
    #[arg(long, default_value = "10", value_name = "MINUTES")]
    pub(super) vol_stats_cache_expire_in_minutes: u32,

    /// Serve inline ephemeral volumes. With these, whoever creates a pod chooses the NFS server.
    #[arg(long)]
    pub(super) enable_inline_volumes: bool,

    /// Register with kubelet by a socket at this path, in kubelet's plugins_registry directory.
    #[arg(long, value_name = "PATH")]
    pub(super) registration_socket: Option<String>,

    /// The CSI socket's path as kubelet, on the host, sees it.
    #[arg(long, value_name = "PATH")]
    pub(super) kubelet_socket_path: Option<String>,

    /// Serve /healthz, /readyz and /metrics over HTTP on this IP address and port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) http_endpoint: Option<SocketAddr>,

    /// Send traces to this collector: OTLP over gRPC.
    #[arg(long, value_name = "http://HOST:PORT", value_parser = collector)]
    pub(super) otlp_endpoint: Option<String>,

    /// The socket on which the driver tells its status. Otherwise it is the CSI socket's path, with .admin after it.
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) admin_socket: Option<String>,

    /// How long running calls may take to finish when the driver stops.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) shutdown_grace: Duration,

    /// Format of log lines: text or json.
    #[arg(long, global = true, default_value = "text", value_parser = log_format, value_name = "FORMAT")]
    pub(super) log_format: Format,

    /// Verbosity of the log, as in klog: below 3 info, 3 and 4 debug, 5 and more trace.
    #[arg(long = "v", global = true, default_value = "0", value_name = "N")]
    pub(super) verbosity: u32,

    /// Accepted for manifests of csi-driver-nfs and ignored: the driver needs no working directory.
    #[arg(long, value_name = "PATH")]
    working_mount_dir: Option<String>,

    /// Accepted for manifests of csi-driver-nfs and ignored: the driver starts no process.
    #[arg(long)]
    use_tar_command_in_snapshot: bool,

    /// Accepted for manifests of csi-driver-nfs and ignored: snapshots are not packed.
    #[arg(long)]
    enable_snapshot_compression: bool,

    /// The flags that were given, also by the environment, in order.
    #[arg(skip)]
    pub(super) given: Vec<String>,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Ask the driver that runs on --endpoint whether it can serve. Exit with 0 if it can, or 1 if not.
    Probe,
    /// Ask the driver that runs on --endpoint what it does now: servers, exports, calls, copies, locks that are waited
    /// for, and the last failures. Exit with 0 if it answers, or 1 if not.
    Status {
        /// Output format: text, or json, which is one object.
        #[arg(long, default_value = "text", value_parser = log_format)]
        format: Format,
    },
    /// Write what an issue about the driver needs as one tar: versions, the status and settings of the driver that runs
    /// on --endpoint, the ends of logs, and the findings of check. What looks like a secret is taken out.
    Bundle {
        /// A log or another text to add; - is standard input. Repeat the flag.
        #[arg(long, value_name = "FILE")]
        log: Vec<PathBuf>,

        /// An export to check, as SERVER:/SHARE, with an IPv6 address in brackets.
        #[arg(long)]
        export: Option<String>,

        /// NFS mount options for the export, separated by commas.
        #[arg(long)]
        mount_options: Option<String>,

        /// The file to write, which must not exist. Otherwise the tar goes to standard output.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Enforce the sizes of volumes on the NFS server itself, by project quotas of XFS or ext4.
    Agent(Agent),
    /// Try what the driver needs of an export, from here: the way to the server, mounting, writing, locks, the clock, and
    /// more. Each step says what to do. Nothing stays. Exit with 0 if nothing is bad, or 1 otherwise.
    Doctor {
        /// The export, as SERVER:/SHARE, with an IPv6 address in brackets.
        #[arg(long)]
        export: String,

        /// NFS mount options, separated by commas.
        #[arg(long)]
        mount_options: Option<String>,

        /// Output format: text, or json, which is one object.
        #[arg(long, default_value = "text", value_parser = log_format)]
        format: Format,
    },
    /// Compare the records of an export with its content. Exit with 0 if they agree, 1 if not, or 69 if the export
    /// cannot be read. It changes nothing without --repair.
    Check {
        /// The export, as SERVER:/SHARE, with an IPv6 address in brackets.
        #[arg(long)]
        export: String,

        /// NFS mount options, separated by commas.
        #[arg(long)]
        mount_options: Option<String>,

        /// Repair what can be repaired without losing data: directory owners, and leftovers in staging and trash.
        #[arg(long)]
        repair: bool,

        /// Output format: text, or json, which is one object.
        #[arg(long, default_value = "text", value_parser = log_format)]
        format: Format,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Agent {
    /// An exported directory on this machine, as an absolute path. Repeat the flag, or separate several with commas.
    #[arg(long, required = true, value_delimiter = ',', value_name = "DIRECTORY")]
    pub(super) path: Vec<PathBuf>,

    /// The project IDs that volumes may get.
    #[arg(long, default_value = "16777216-4294967294", value_name = "FIRST-LAST", value_parser = project_ids)]
    pub(super) project_ids: std::ops::RangeInclusive<u32>,

    /// Serve /healthz, /readyz and /metrics over HTTP on this IP address and port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) http_endpoint: Option<SocketAddr>,
}

fn project_ids(text: &str) -> Result<std::ops::RangeInclusive<u32>, &'static str> {
    let range = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    // Objects without a project have the ID 0, and chown(2) and similar calls take the largest number for "unchanged".
    range
        .filter(|range: &std::ops::RangeInclusive<u32>| {
            !range.is_empty() && *range.start() > 0 && *range.end() < u32::MAX
        })
        .ok_or("not FIRST-LAST, two numbers from 1 to 4294967294")
}

impl Args {
    /// Parses the command line, which starts with the program's name, and the environment, which `variable` looks up.
    pub(super) fn read(
        words: impl IntoIterator<Item = OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, clap::Error> {
        let mut words = words.into_iter();
        let program = words.next().unwrap_or_default();
        let words: Vec<OsString> = words.map(double_dash).filter(|word| !is_empty_flag(word)).collect();
        let command = Self::command().mut_args(name_variables).mut_args(take_value);
        let from_environment: Vec<OsString> = command
            .get_arguments()
            .filter_map(Arg::get_long)
            .filter(|flag| !words.iter().any(|word| gives(word, flag)))
            .filter_map(|flag| {
                let value = variables(flag).filter_map(|name| variable(&name)).find(|value| !value.is_empty())?;
                let mut word = OsString::from(format!("--{flag}="));
                word.push(value);
                Some(word)
            })
            .collect();
        let words: Vec<OsString> = from_environment.into_iter().chain(words).collect();
        let given = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let matches = command.try_get_matches_from([program].into_iter().chain(words))?;
        Ok(Self { given, ..Self::from_arg_matches(&matches)? })
    }
}

/// The environment variables of a flag.
fn variables(flag: &str) -> impl Iterator<Item = String> {
    let own = format!("CSI_NFS_{}", flag.replace('-', "_").to_ascii_uppercase());
    let customary = CUSTOMARY.into_iter().filter(move |(of, _)| *of == flag).map(|(_, name)| name.to_owned());
    std::iter::once(own).chain(customary.collect::<Vec<_>>())
}

fn name_variables(arg: Arg) -> Arg {
    let Some(flag) = arg.get_long() else { return arg };
    let names = variables(flag).collect::<Vec<_>>().join(", ");
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    arg.help(format!("{help} [env: {names}]"))
}

/// A boolean flag as in Go: `--flag`, `--flag=true` or `--flag=false`, but never with the value as the next word.
fn take_value(arg: Arg) -> Arg {
    match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_name("BOOL")
            .value_parser(switch)
            .default_value("false")
            .default_missing_value("true"),
        _ => arg,
    }
}

/// Go accepts one dash as well as two: `-nodeid=x`. clap handles `-h` and `-V`.
fn double_dash(word: OsString) -> OsString {
    match word.as_bytes() {
        b"-h" | b"-V" => word,
        [b'-', b'a'..=b'z' | b'A'..=b'Z', ..] => {
            let mut long = OsString::from("-");
            long.push(&word);
            long
        }
        _ => word,
    }
}

/// `--flag=`.
fn is_empty_flag(word: &OsStr) -> bool {
    let word = word.as_bytes();
    word.starts_with(b"--") && word.iter().position(|b| *b == b'=') == Some(word.len() - 1)
}

/// Whether the word passes the flag: `--flag` or `--flag=…`.
fn gives(word: &OsStr, flag: &str) -> bool {
    let rest = word.as_bytes().strip_prefix(b"--").and_then(|word| word.strip_prefix(flag.as_bytes()));
    matches!(rest, Some([]) | Some([b'=', ..]))
}

/// The values that Go's strconv.ParseBool accepts.
fn switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false"),
    }
}

fn mode(text: &str) -> Result<Mode, &'static str> {
    match text {
        "controller" => Ok(Mode::Controller),
        "node" => Ok(Mode::Node),
        "all" => Ok(Mode::All),
        _ => Err("not one of controller, node and all"),
    }
}

fn client(text: &str) -> Result<Choice, &'static str> {
    let found = Choice::ALL.into_iter().find(|choice| choice.as_str() == text);
    found.ok_or("not one of kernel, own and auto")
}

fn collector(text: &str) -> Result<String, &'static str> {
    let url: Uri = text.parse().map_err(|_| "not an address like http://HOST:PORT")?;
    match (url.scheme_str(), url.host(), url.port_u16(), url.path_and_query().map(PathAndQuery::as_str)) {
        (Some("https"), ..) => Err("traces are sent without TLS: give a collector beside the driver, http://HOST:PORT"),
        (Some("http"), Some(_), Some(_), None | Some("/")) => Ok(text.to_owned()),
        _ => Err("not an address like http://HOST:PORT"),
    }
}

fn log_format(text: &str) -> Result<Format, &'static str> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("neither text nor json"),
    }
}
