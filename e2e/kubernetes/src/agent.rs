//! The quota agent on the NFS server, beside the cluster.
use anyhow::Result;

use crate::machine::{Machine, exported};
use crate::tool;

/// Starts the agent.
pub async fn start() -> Result<()> {
    let program = tool("csi-nfs").display().to_string();
    let share = exported("");
    let share = share.trim_end_matches('/');
    Machine::Nfs
        .run(&format!("{program} agent --path {share} > /tmp/agent.log 2>&1 & echo $! > /tmp/agent.pid"))
        .await?;
    Ok(())
}

/// Sends SIGKILL to the agent.
pub async fn kill() -> Result<()> {
    Machine::Nfs.run("kill -9 $(cat /tmp/agent.pid)").await?;
    Ok(())
}
