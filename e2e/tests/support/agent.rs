//! The quota agent as a process on the machine of the NFS server.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::driver::program;
use super::lab::Share;

/// A running agent. Dropping this kills it.
pub struct Agent {
    process: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts an agent for a share.
    pub fn start(share: &Share) -> Self {
        Self::by(Command::new(program()), &["-v=5"], &[share])
    }

    /// Starts an agent that logs little.
    pub fn quiet(share: &Share) -> Self {
        Self::by(Command::new(program()), &[], &[share])
    }

    /// Starts an agent for several shares. `command` runs the program with the arguments that this adds.
    pub fn by(mut command: Command, flags: &[&str], shares: &[&Share]) -> Self {
        let log = std::env::temp_dir().join(format!("agent-{}.log", shares[0].share.replace('/', "-")));
        let paths: Vec<_> = shares.iter().map(|share| share.path.to_str().unwrap()).collect();
        let process = command
            .args(flags)
            .args(["agent", "--path", &paths.join(",")])
            .stdin(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        Self { process, log }
    }

    /// The number after a key of the process's `/proc/PID/status`.
    pub fn proc_status(&self, key: &str) -> u64 {
        super::driver::status(&format!("/proc/{}/status", self.process.id()), key)
    }

    /// The number of times that its threads have gone to sleep.
    pub fn sleeps(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let status =
            |thread: std::io::Result<fs::DirEntry>| thread.unwrap().path().join("status").display().to_string();
        threads.map(|thread| super::driver::status(&status(thread), "voluntary_ctxt_switches")).sum()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// The agent's log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
