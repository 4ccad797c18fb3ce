//! The helpers of TLS and Kerberos that `e2e/vm/tlshd` and `e2e/vm/kerberos` start, and outages of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::lab::{Away, Lab, run};

impl Lab {
    /// Gives the client and the server these certificates (see `e2e/vm/tlshd`) until the returned value is dropped.
    pub fn with_certificates(&self, client: &str, server: &str) -> Away {
        self.assert_alone();
        run(script("tlshd"), ["stop"]);
        run(script("tlshd"), ["start", client, server]);
        Away::until(|| {
            run(script("tlshd"), ["stop"]);
            run(script("tlshd"), ["start"]);
        })
    }

    /// Stops tlshd, for the client and the server, until the returned value is dropped.
    pub fn without_tlshd(&self) -> Away {
        self.assert_alone();
        run(script("tlshd"), ["stop"]);
        Away::until(|| run(script("tlshd"), ["start"]))
    }

    /// Stops the client's rpc.gssd until the returned value is dropped.
    pub fn without_gssd(&self) -> Away {
        self.assert_alone();
        let pid = fs::read_to_string("/run/kerberos/gssd.pid").unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let start = Instant::now();
        while test_kill_process(pid).is_ok() {
            assert!(start.elapsed() < Duration::from_secs(5), "rpc.gssd does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        Away::until(|| run(script("kerberos"), ["gssd"]))
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/vm").join(name)
}
