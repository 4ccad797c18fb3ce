//! Loopback as slow as a network: tc-netem(8).

use super::lab::{Away, Lab, run};

impl Lab {
    /// Delays every packet on loopback, such as by `150us`, until the returned value is dropped. A round trip takes twice
    /// the delay longer.
    pub fn with_delay(&self, delay: &str) -> Away {
        self.assert_alone();
        run("tc", ["qdisc", "add", "dev", "lo", "root", "netem", "delay", delay, "limit", "10000"]);
        Away::until(|| run("tc", ["qdisc", "del", "dev", "lo", "root"]))
    }
}
