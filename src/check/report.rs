//! `csi-nfs check`: connects to an export, checks it, and prints the findings.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::{Finding, check_with, repair};
use crate::check::progress::{Progress, to_stderr};
use crate::error::{Error, Result};
use crate::export::Export;
use crate::export::client::{Choice, Clients};
use crate::export::fs::{Attr, Fs, Name, Status};
use crate::export::pool::Connect;
use crate::export::user::UserSpace;
use crate::mount::gate::Gates;
use crate::mount::mounter::Mounter;
use crate::mount::reachability::Reachability;
use crate::nfs::options::MountOptions;
use crate::nfs::source::{Source, SubDir};
use crate::nfs::text::{Format, one_line};
use crate::nfs4::tls::TlsFiles;

/// What to check, and how.
#[derive(Debug)]
pub struct Settings {
    /// The export.
    pub export: Source,
    /// How it is mounted.
    pub mount_options: MountOptions,
    /// The client that reaches it.
    pub client: Choice,
    /// The certificates for exports with TLS, if the driver's own client reaches it.
    pub certificates: TlsFiles,
    /// Whether to repair what can be repaired.
    pub repair: bool,
}

/// The findings on an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `SERVER:/SHARE`.
    pub export: String,
    /// What the driver's own client knows of its connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// What is inconsistent.
    pub findings: Vec<Finding>,
    /// What was inconsistent and has been repaired.
    pub repaired: Vec<Finding>,
}

/// Checks an export, and repairs it if `settings` say so.
///
/// # Errors
/// [`Error::Unreachable`](crate::error::Error::Unreachable), [`Error::Mount`](crate::error::Error::Mount), or the error
/// of an operation on the export.
pub async fn run(settings: &Settings) -> Result<Report> {
    let reachability = Reachability::new();
    let mounter = Arc::new(Mounter::new(reachability.clone(), Gates::new(reachability.clone())));
    let own = UserSpace::new(reachability, UserSpace::unique_owner()).with_certificates(settings.certificates.clone());
    let clients = Clients::new(settings.client, mounter, own.clone());
    let address = clients.check(&settings.export, &settings.mount_options).await?;
    let fs = clients.connect(&settings.export, &settings.mount_options, address).await?;
    let export = Export::new(settings.export.clone(), fs, Arc::default());
    let progress = Progress::default();
    let work = async {
        let found = check_with(&export, &progress).await?;
        if !settings.repair {
            return Ok((found.clone(), found));
        }
        progress.begin("repairing", 0);
        repair(&export, &found).await?;
        Ok::<_, Error>((found, check_with(&export, &progress).await?))
    };
    let mut connection = export.fs().connection();
    if let Some(connection) = &mut connection {
        connection.push_str(&squashing(&export).await);
    }
    let checked = progress.told(work, to_stderr).await;
    drop(export);
    own.ended().await;
    let (found, findings) = checked?;
    let left: BTreeSet<&Finding> = findings.iter().collect();
    let repaired = found.into_iter().filter(|finding| !left.contains(finding)).collect();
    Ok(Report { export: settings.export.to_string(), connection, findings, repaired })
}

/// What becomes of root on the export, by the directory that the driver made there as root; nothing before there is one.
async fn squashing<F: Fs>(export: &Export<F>) -> String {
    let squashed = "; the server squashes root";
    let Ok(private) = Name::new(SubDir::PRIVATE) else { return String::new() };
    match export.fs().lookup(&export.fs().root(), &private).await {
        Ok((_, Attr { uid: 0, .. })) => "; the server does not squash root".to_owned(),
        Ok((_, Attr { uid, .. })) => format!("{squashed}: the driver's files belong to uid {uid}"),
        Err(Status::Access | Status::Perm) => squashed.to_owned(),
        Err(_) => String::new(),
    }
}

impl Report {
    /// The report in the requested format.
    pub fn print(&self, format: Format) -> String {
        match format {
            // All fields are strings and numbers, so serialization cannot fail.
            Format::Json => serde_json::to_string(self).unwrap_or_default() + "\n",
            Format::Text => {
                let repaired =
                    self.repaired.iter().map(|finding| format!("repaired: {}\n", one_line(&finding.to_string())));
                let left = self.findings.iter().map(|finding| format!("{}\n", one_line(&finding.to_string())));
                let count = match self.findings.len() {
                    0 => "records and directories agree".to_owned(),
                    1 => "1 finding".to_owned(),
                    many => format!("{many} findings"),
                };
                let by = self.connection.iter().map(|connection| format!(" ({connection})")).collect::<String>();
                repaired.chain(left).chain([format!("{}: {count}{by}\n", self.export)]).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fs::SetAttr;
    use crate::testing::crash_harness::reach;
    use crate::testing::memory::MemoryServer;

    #[tokio::test]
    async fn a_server_that_squashes_root_is_known_by_the_owner_of_the_private_directory() {
        for (squashes, expected) in [(false, "; the server does not squash root"), (true, "belong to uid 65534")] {
            let server = MemoryServer::new();
            let export = reach(&server);
            let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
            export.fs().setattr(&export.fs().root(), open).await.unwrap();
            server.set_root_squash(squashes);
            assert_eq!(squashing(&export).await, "");
            export.make_layout().await.unwrap();
            let told = squashing(&export).await;
            assert!(told.ends_with(expected), "{told}");
        }
    }

    #[test]
    fn a_report_prints_as_text_or_as_json() {
        let stale = Finding::TrashLeftover { entry: "x\ny".to_owned() };
        let connection = Some("NFS 4.2".to_owned());
        let report = Report { export: "nfs:/e".to_owned(), connection, findings: vec![stale], repaired: Vec::new() };
        assert_eq!(report.print(Format::Text), "x\\ny is left in the trash\nnfs:/e: 1 finding (NFS 4.2)\n");
        assert_eq!(
            report.print(Format::Json),
            "{\"export\":\"nfs:/e\",\"connection\":\"NFS 4.2\",\"findings\":[{\"finding\":\"trashLeftover\",\"entry\":\"x\\ny\"}],\
             \"repaired\":[]}\n"
        );
    }
}
