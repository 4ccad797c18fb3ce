//! The machines of the cluster: a shell on each, and a power switch.
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::repository;
use crate::wait::{SOON, eventually};

/// A virtual machine of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// The NFS server: /srv/export is its NFSv4 root.
    Nfs,
    Node1,
    Node2,
}

impl Machine {
    /// Its name in the scripts and in Kubernetes.
    pub fn name(self) -> &'static str {
        match self {
            Machine::Nfs => "nfs",
            Machine::Node1 => "node1",
            Machine::Node2 => "node2",
        }
    }

    /// The node of that name.
    pub fn node(name: &str) -> Result<Machine> {
        [Machine::Node1, Machine::Node2]
            .into_iter()
            .find(|m| m.name() == name)
            .with_context(|| format!("no node {name}"))
    }

    /// The node that is not this one.
    pub fn other(self) -> Machine {
        if self == Machine::Node1 { Machine::Node2 } else { Machine::Node1 }
    }

    /// Its address in the cluster.
    pub fn address(self) -> &'static str {
        match self {
            Machine::Nfs => "10.89.0.20",
            Machine::Node1 => "10.89.0.11",
            Machine::Node2 => "10.89.0.12",
        }
    }

    /// Runs `script` with bash as root on the machine. Returns its output without the last newline. Fails if its status
    /// is not 0.
    pub async fn run(self, script: &str) -> Result<String> {
        let mut shell = TcpStream::connect((self.address(), 2000))
            .await
            .with_context(|| format!("{} has no shell", self.name()))?;
        shell.write_all(format!("( {script}\n) 2>&1; echo \" status=$?\"\n").as_bytes()).await?;
        shell.shutdown().await?;
        let mut output = String::new();
        shell.read_to_string(&mut output).await?;
        let (printed, status) =
            output.trim_end().rsplit_once(" status=").context("the connection to the shell broke")?;
        ensure!(status == "0", "on {}: {script}: status {status}: {printed}", self.name());
        Ok(printed.trim_end().to_owned())
    }

    /// Lets a node serve NFS as well: /srv/export is its NFSv4 root, on XFS with project quotas.
    pub async fn serve(self) -> Result<()> {
        let script = repository("e2e/kubernetes/nfs-main");
        self.run(&format!(". {} > /tmp/serve.log", script.display())).await.map(drop)
    }

    /// Stops the NFS service of a node.
    pub async fn stop_serving(self) -> Result<()> {
        self.run("rpc.nfsd 0; exportfs -ua").await.map(drop)
    }

    /// Powers the machine off at once, like a power failure.
    pub fn off(self) -> Result<()> {
        self.script("off")
    }

    /// Boots the machine again. The NFS server has its old disk. A node starts empty.
    pub fn on(self) -> Result<()> {
        self.script("vm")
    }

    fn script(self, script: &str) -> Result<()> {
        let status = Command::new(repository("e2e/kubernetes").join(script)).arg(self.name()).status()?;
        ensure!(status.success(), "{script} {}: {status}", self.name());
        Ok(())
    }
}

/// The path of `path` in the export `/share` on the NFS server's own file system.
pub fn exported(path: &str) -> String {
    format!("/srv/export/share/{path}")
}

/// The text of a file in the export, read on the server.
pub async fn read_export(path: &str) -> Result<String> {
    Machine::Nfs.run(&format!("cat '{}'", exported(path))).await
}

/// Waits until the file in the export has this text. A container that is ready may not have written yet.
pub async fn written(path: &str, text: &str) -> Result<()> {
    eventually(SOON, &format!("{path} has {text:?}"), async || Ok((read_export(path).await? == text).then_some(())))
        .await
}

/// Whether the export has something at `path`.
pub async fn export_has(path: &str) -> Result<bool> {
    Ok(Machine::Nfs.run(&format!("test -e '{}' && echo yes || echo no", exported(path))).await? == "yes")
}
