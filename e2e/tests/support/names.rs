//! Names of servers, and their addresses.

use std::fs;

use super::lab::{Lab, run};

/// The private copy of /etc/hosts.
const HOSTS: &str = "/run/hosts.e2e";

/// A private /etc/hosts for a test. It is mounted over the machine's /etc/hosts until this is dropped.
#[derive(Debug)]
pub struct Names {
    machine_s: String,
}

impl Names {
    /// Starts with the machine's names only. The test must run alone, because all tests see the same names.
    pub fn of(lab: &Lab) -> Self {
        lab.assert_alone();
        let machine_s = fs::read_to_string("/etc/hosts").unwrap();
        fs::write(HOSTS, &machine_s).unwrap();
        run("mount", ["--bind", HOSTS, "/etc/hosts"]);
        Self { machine_s }
    }

    /// Sets the addresses of a name.
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let lines: String = addresses.iter().map(|address| format!("{address} {name}\n")).collect();
        // The file is written in place, because this inode is mounted.
        fs::write(HOSTS, format!("{}\n{lines}", self.machine_s)).unwrap();
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        run("umount", ["/etc/hosts"]);
    }
}

/// An additional address of this host. Dropping this removes the address.
#[derive(Debug)]
pub struct Address(&'static str);

impl Address {
    /// Adds the address to the loopback device.
    pub fn add(address: &'static str) -> Self {
        run("ip", ["address", "add", &format!("{address}/32"), "dev", "lo"]);
        Self(address)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        run("ip", ["address", "delete", &format!("{}/32", self.0), "dev", "lo"]);
    }
}
