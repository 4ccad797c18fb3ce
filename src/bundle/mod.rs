//! `csi-nfs bundle`: what an issue about the driver needs, as one tar. It has versions, the status and the settings of
//! the driver that runs, logs that are given, and the findings of `csi-nfs check`. Texts that look like secrets are
//! taken out (`redact.rs`). A part that cannot be had is replaced by the reason.

mod redact;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tar::{Builder, EntryType, Header};

use crate::check;
use crate::error::{Error, Result};
use crate::nfs::text::{Format, one_line};
use crate::server::admin;
use crate::server::socket::SocketPath;

/// The most bytes of a log that are taken: its end.
const LOG_MAX: usize = 8 << 20;
/// The size of one read of a log.
const CHUNK: usize = 64 << 10;
/// The directory in the tar.
const TOP: &str = "csi-nfs-bundle";

const README: &str = "\
This is a bundle of csi-nfs, for an issue.

about.txt      the program and the kernel where the bundle was made
status.txt     what the driver there said that it does (csi-nfs status), status.json: the same
settings.txt   the flags that the driver was given, also those from the environment
check.json     the findings of csi-nfs check, if an export was named
logs/          the ends of the logs that were given

What looks like a password, a token, a key or a certificate is replaced by [redacted]. Names of servers, volumes and
directories are not: look through the files before you publish them.
";

/// What goes into a bundle.
#[derive(Debug)]
pub struct Settings {
    /// Logs, and other text; `-` is standard input.
    pub logs: Vec<PathBuf>,
    /// The admin socket of the driver.
    pub socket: SocketPath,
    /// The export to check.
    pub check: Option<check::Settings>,
}

/// Makes the bundle, and writes it to `to`.
///
/// # Errors
/// A log that cannot be read, and `to` if it cannot be written. Everything else that is missing is said in the bundle.
pub async fn write(settings: &Settings, to: impl Write) -> Result<()> {
    let mut bundle = Bundle { tar: Builder::new(to), made: SystemTime::now() };
    bundle.add("README.txt", README)?;
    bundle.add("about.txt", &about(bundle.made))?;
    match admin::ask(&settings.socket).await {
        Ok(status) => {
            bundle.add("status.txt", &status.print(Format::Text))?;
            bundle.add_json("status.json", &status.print(Format::Json))?;
            bundle.add("settings.txt", &(status.settings.join("\n") + "\n"))?;
        }
        Err(error) => bundle.add("status.txt", &format!("{error}\n"))?,
    }
    if let Some(settings) = &settings.check {
        match check::run(settings).await {
            Ok(report) => bundle.add_json("check.json", &report.print(Format::Json))?,
            Err(error) => bundle.add("check.txt", &format!("{error}\n"))?,
        }
    }
    for (number, path) in (1..).zip(&settings.logs) {
        let log = tail(path).map_err(|error| reading(path, &error))?;
        bundle.add(&format!("logs/{number}-{}", file_name(path)), &log)?;
    }
    bundle.tar.into_inner().and_then(|mut to| to.flush()).map_err(|error| writing(&error))
}

/// A tar that is being made.
struct Bundle<W: Write> {
    tar: Builder<W>,
    made: SystemTime,
}

impl<W: Write> Bundle<W> {
    /// Adds a file, without what looks like a secret.
    fn add(&mut self, name: &str, text: &str) -> Result<()> {
        self.append(name, &redact::redact(text))
    }

    /// The same of a file that stays JSON.
    fn add_json(&mut self, name: &str, json: &str) -> Result<()> {
        self.append(name, &redact::redact_json(json))
    }

    fn append(&mut self, name: &str, text: &str) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.made.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let added = self.tar.append_data(&mut header, format!("{TOP}/{name}"), text.as_bytes());
        added.map_err(|error| writing(&error))
    }
}

fn writing(error: &io::Error) -> Error {
    Error::Internal(format!("writing the bundle: {error}; free space there, or name another file with --output"))
}

fn reading(path: &Path, error: &io::Error) -> Error {
    let shown = path.display().to_string();
    Error::invalid(
        "--log",
        format!("reading `{}`: {error}; name a file with text, or - for standard input", one_line(&shown)),
    )
}

/// The program, and the kernel that it runs on.
fn about(at: SystemTime) -> String {
    let kernel = rustix::system::uname();
    let [name, release, machine] =
        [kernel.sysname(), kernel.release(), kernel.machine()].map(|text| text.to_string_lossy().into_owned());
    format!(
        "csi-nfs {} on {name} {release} {machine}\nmade {}\n",
        env!("CARGO_PKG_VERSION"),
        humantime::format_rfc3339_seconds(at)
    )
}

/// The name of a log in the bundle.
fn file_name(path: &Path) -> String {
    let name = if path == Path::new("-") { Path::new("stdin") } else { path };
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    name.chars().take(64).map(plain).collect()
}

/// The end of a log, from the beginning of a line. A pipe has no end to seek to, so everything is read.
fn tail(path: &Path) -> io::Result<String> {
    let mut input: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin().lock()) } else { Box::new(File::open(path)?) };
    let (mut log, mut chunk, mut is_cut) = (Vec::new(), vec![0; CHUNK], false);
    loop {
        match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => log.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if log.len() > 2 * LOG_MAX {
            log.drain(..log.len() - LOG_MAX);
            is_cut = true;
        }
    }
    if log.len() > LOG_MAX {
        log.drain(..log.len() - LOG_MAX);
        is_cut = true;
    }
    if is_cut {
        let line = log.iter().position(|byte| *byte == b'\n').map_or(log.len(), |end| end + 1);
        log.drain(..line);
        log.splice(..0, b"[the beginning is left out]\n".iter().copied());
    }
    Ok(String::from_utf8_lossy(&log).into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn files(tar: &[u8]) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(tar);
        let file = |entry: io::Result<tar::Entry<&[u8]>>| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let path = entry.path().unwrap().display().to_string();
            (path.strip_prefix("csi-nfs-bundle/").unwrap().to_owned(), text)
        };
        archive.entries().unwrap().map(file).collect()
    }

    async fn bundle(logs: Vec<PathBuf>) -> Result<BTreeMap<String, String>> {
        let socket = SocketPath::parse("", "/nowhere/csi.sock.admin").unwrap();
        let mut tar = Vec::new();
        write(&Settings { logs, socket, check: None }, &mut tar).await?;
        Ok(files(&tar))
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_said_in_the_bundle() {
        let files = bundle(Vec::new()).await.unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["README.txt", "about.txt", "status.txt"]);
        assert!(files["status.txt"].contains("/nowhere/csi.sock.admin"), "{files:?}");
        assert!(files["about.txt"].starts_with(concat!("csi-nfs ", env!("CARGO_PKG_VERSION"), " on Linux ")));
    }

    #[tokio::test]
    async fn the_end_of_each_log_is_there_by_its_name_without_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("a log\n"), "one\npassword=hunter2\n").unwrap();
        let line = "0123456789abcdef0123456789abcdef\n";
        std::fs::write(path("long"), line.repeat(3 * LOG_MAX / line.len())).unwrap();
        std::fs::write(path("bytes"), b"\xff\n").unwrap();
        let files = bundle(vec![path("a log\n"), path("long"), path("bytes")]).await.unwrap();
        assert_eq!(files["logs/1-a_log_"], "one\npassword=[redacted]\n");
        let long = files["logs/2-long"].strip_prefix("[the beginning is left out]\n").unwrap();
        assert!(long.len() <= LOG_MAX && long.len() > LOG_MAX - 2 * line.len(), "{}", long.len());
        assert!(long.lines().all(|other| other == line.trim_end()));
        assert_eq!(files["logs/3-bytes"], "\u{fffd}\n");
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_is_an_error_that_names_it() {
        let error = bundle(vec!["/no/such/log".into()]).await.unwrap_err().to_string();
        assert!(error.starts_with("--log: reading `/no/such/log`: No such file"), "{error}");
    }
}
