//! NFS over TLS: certificates, tlshd on the machines, and an export that takes only clients with a certificate. The values
//! in `tls.yaml` are for this export.
use std::path::PathBuf;
use std::{fs, process};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::machine::Machine;
use crate::{cached, repository};

/// The secret with the certificates of the controller.
pub const SECRET: &str = "nfs-tls";
/// The export's directory on the NFS server.
pub const ENCRYPTED: &str = "/srv/export/encrypted";

const MACHINES: [Machine; 3] = [Machine::Nfs, Machine::Node1, Machine::Node2];

fn certificates() -> PathBuf {
    cached("kubernetes/cluster/tls")
}

fn tlshd() -> String {
    format!("TLSHD_CERTIFICATES={} {}", certificates().display(), repository("e2e/vm/tlshd").display())
}

/// Debian's stable one knows no `xprtsec=`.
fn exportfs() -> String {
    cached("unstable/bin/exportfs").display().to_string()
}

/// Makes the certificates, starts tlshd on all machines, and exports [`ENCRYPTED`].
pub async fn serve() -> Result<()> {
    let made = process::Command::new(repository("e2e/vm/tlshd"))
        .arg("certificates")
        .env("TLSHD_CERTIFICATES", certificates())
        .env("TLSHD_NAMES", format!("DNS:nfs.example.org,IP:{}", Machine::Nfs.address()))
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for machine in MACHINES {
        // The machines load no module by themselves, such as that of the cipher.
        machine.run(&format!("load tls gcm ctr; {} start", tlshd())).await?;
    }
    // A directory is an export of its own within another if it is a mount.
    let options = "rw,no_root_squash,fsid=1,no_subtree_check,insecure,xprtsec=mtls";
    let export = format!(
        "mkdir -p {ENCRYPTED} && mount --bind {ENCRYPTED} {ENCRYPTED} && {} -i -o {options} '*:{ENCRYPTED}'",
        exportfs()
    );
    Machine::Nfs.run(&export).await.map(drop)
}

/// Ends all of it.
pub async fn stop_serving() -> Result<()> {
    let unexport = format!("{0} -u '*:{ENCRYPTED}' && {0} -f && umount {ENCRYPTED} && rm -r {ENCRYPTED}", exportfs());
    Machine::Nfs.run(&unexport).await?;
    for machine in MACHINES {
        machine.run(&format!("{} stop", tlshd())).await?;
    }
    Ok(())
}

/// The secret with the certificate `good`, or `expired`, which the server refuses.
pub fn secret(certificate: &str) -> Result<Secret> {
    let read = |file: &str| fs::read_to_string(certificates().join(file));
    let data = json!({
        "ca.crt": read("trusted.pem")?,
        "tls.crt": read(&format!("{certificate}.pem"))?,
        "tls.key": read(&format!("{certificate}.key"))?,
    });
    Ok(serde_json::from_value(json!({"metadata": {"name": SECRET}, "stringData": data}))?)
}
