//! NFS servers in memory, and the connections of a driver process to them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::export::pool::Connect;
use crate::nfs::options::MountOptions;
use crate::nfs::source::{Server, Share, Source};
use crate::testing::memory::{MemoryFs, MemoryServer};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub(crate) const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// NFS servers that accept only certain mount options. A test can make them unreachable or move them.
pub(crate) struct Servers {
    pub(crate) servers: HashMap<Source, MemoryServer>,
    /// The servers at the address [`ELSEWHERE`], to which the names of the servers can move.
    pub(crate) elsewhere: HashMap<Source, MemoryServer>,
    pub(crate) address: Mutex<IpAddr>,
    /// Sets of mount options, with `;` between.
    takes: &'static str,
    pub(crate) gone: AtomicBool,
    pub(crate) times_out: AtomicBool,
    pub(crate) connections: AtomicUsize,
}

impl Servers {
    /// Servers that accept only the mount options `takes`, or one of several such sets with `;` between.
    pub(crate) fn new(servers: HashMap<Source, MemoryServer>, takes: &'static str) -> Arc<Self> {
        let elsewhere = servers.keys().map(|share| (share.clone(), MemoryServer::new())).collect();
        Arc::new(Self {
            servers,
            elsewhere,
            address: Mutex::new(HERE),
            takes,
            gone: AtomicBool::new(false),
            times_out: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        })
    }
}

/// The share `/export` of a server.
pub(crate) fn export_of(server: &str) -> Source {
    Source::share(Server::parse("server", server).unwrap(), Share::parse("share", "/export").unwrap())
}

/// A process's connections to the servers. The process is one client of each server, however often it connects.
pub(crate) struct Process {
    servers: Arc<Servers>,
    clients: Mutex<HashMap<(Source, IpAddr), MemoryFs>>,
}

impl Process {
    pub(crate) fn new(servers: &Arc<Servers>) -> Arc<Self> {
        Arc::new(Self { servers: servers.clone(), clients: Mutex::default() })
    }
}

impl Connect for Arc<Process> {
    type Fs = MemoryFs;

    async fn check(&self, share: &Source, options: &MountOptions) -> Result<IpAddr> {
        if self.servers.gone.load(Ordering::Relaxed) {
            let (server, reason) = (share.server.to_string(), "no answer".to_owned());
            return Err(Error::Unreachable { server, port: options.port(), reason });
        }
        Ok(*self.servers.address.lock().unwrap())
    }

    async fn connect(&self, share: &Source, options: &MountOptions, address: IpAddr) -> Result<MemoryFs> {
        let servers = &self.servers;
        servers.connections.fetch_add(1, Ordering::Relaxed);
        let refused = |errno| Error::Mount {
            source_name: share.to_string(),
            options: options.to_string(),
            reason: "refused".to_owned(),
            errno,
        };
        if servers.times_out.load(Ordering::Relaxed) {
            return Err(refused(110));
        }
        if !servers.takes.split(';').any(|takes| takes == options.to_vec().join(",")) {
            return Err(refused(13));
        }
        let server = if address == ELSEWHERE { &servers.elsewhere } else { &servers.servers };
        let server = server.get(share).ok_or_else(|| refused(2))?;
        let mut clients = self.clients.lock().unwrap();
        Ok(clients.entry((share.clone(), address)).or_insert_with(|| server.client()).clone())
    }
}
