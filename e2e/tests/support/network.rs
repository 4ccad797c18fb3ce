//! Links as slow as a network: tc-netem(8).

use super::lab::{Away, Lab, run};

impl Lab {
    /// Delays every packet on loopback, such as by `150us`, until the returned value is dropped. A round trip takes twice
    /// the delay longer.
    pub fn with_delay(&self, delay: &str) -> Away {
        self.assert_alone();
        slow_down("lo", delay);
        Away::until(|| speed_up("lo"))
    }

    /// Delays every packet to NFS-Ganesha until the returned value is dropped.
    pub fn with_slow_ganesha(&self, delay: &str) -> Away {
        self.assert_alone();
        slow_down("ganesha", delay);
        Away::until(|| speed_up("ganesha"))
    }
}

fn slow_down(device: &str, delay: &str) {
    run("tc", ["qdisc", "add", "dev", device, "root", "netem", "delay", delay, "limit", "10000"]);
}

fn speed_up(device: &str) {
    run("tc", ["qdisc", "del", "dev", device, "root"]);
}
