//! TLS in front of a server, as tlshd gives it to knfsd, and certificates for both sides.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, copy_bidirectional};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::super::*;
use crate::nfs4::rpc::{self, AUTH_TLS};
use crate::nfs4::tls::{Identity, TlsFiles};

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key in PEM form.
#[derive(Clone)]
pub struct Certified {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// All have the same name, and each has a key of its own.
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for the server's address, with changes.
    pub fn certifies(&self, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Certified { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    fn store(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        store
    }
}

/// What a server has: its certificate, and the authority that clients need a certificate of.
pub fn server(own: &Certified, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13]).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.store()), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()];
    let mut config =
        builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap()).unwrap();
    config.alpn_protocols = vec![b"sunrpc".to_vec()];
    config
}

/// The client's files.
pub struct Files(TempDir);

impl Files {
    pub fn new(authority: &Authority, own: &Certified) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.replace(authority, own);
        files
    }

    pub fn replace(&self, authority: &Authority, own: &Certified) {
        self.put("ca.crt", &authority.pem);
        self.put("tls.crt", &own.certificate);
        self.put("tls.key", &own.key);
    }

    pub fn put(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// As the flags name them.
    pub fn named(&self) -> TlsFiles {
        let identity = Identity { certificate: self.path("tls.crt"), key: self.path("tls.key") };
        TlsFiles { authorities: Some(self.path("ca.crt")), identity: Some(identity) }
    }
}

/// What comes after a request for TLS: the bytes for a call of this number.
pub type Answer = fn(u32) -> Vec<u8>;

/// TLS in front of a server, which ends when it is dropped.
pub struct Front {
    pub address: SocketAddr,
    inside: Arc<Inside>,
    #[expect(dead_code, reason = "it is held for its drop")]
    listening: AbortOnDropHandle<()>,
}

struct Inside {
    to: SocketAddr,
    how: Mutex<(Answer, Arc<ServerConfig>)>,
    /// The number of connections that were encrypted, and of those that brought something else than they should.
    encrypted: AtomicU64,
    clear: AtomicU64,
}

impl Front {
    pub async fn of(server: &NfsServer, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let how = Mutex::new((starttls as Answer, Arc::new(config)));
        let (encrypted, clear) = (AtomicU64::new(0), AtomicU64::new(0));
        let inside = Arc::new(Inside { to: server.address, how, encrypted, clear });
        let listening = inside.clone();
        let listening = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let inside = listening.clone();
                // Either side may end the connection.
                tokio::spawn(async move { drop(inside.serve(stream).await) });
            }
        }));
        Self { address, inside, listening }
    }

    /// What new connections get from now on.
    pub fn answer(&self, answer: Answer) {
        lock(&self.inside.how).0 = answer;
    }

    /// The certificates of new connections from now on.
    pub fn certificates(&self, config: ServerConfig) {
        lock(&self.inside.how).1 = Arc::new(config);
    }

    /// The number of connections that were encrypted.
    pub fn encrypted(&self) -> u64 {
        self.inside.encrypted.load(Ordering::Relaxed)
    }

    /// The number of connections that brought something in clear text, or TLS without having been told to.
    pub fn clear(&self) -> u64 {
        self.inside.clear.load(Ordering::Relaxed)
    }
}

impl Inside {
    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let xid = loop {
            let message = record(&mut stream, ANSWER_MAX).await?;
            let (xid, procedure, _) = call(&message).unwrap();
            if message == rpc::null(xid, AUTH_TLS)[4..] {
                break xid;
            }
            // The NULL that finds out whether the server answers may be in clear text.
            if procedure != 0 {
                self.clear.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            stream.write_all(&reply(xid, &[])).await?;
        };
        let (answer, config) = lock(&self.how).clone();
        let answer = answer(xid);
        stream.write_all(&answer).await?;
        if answer.is_empty() {
            return Ok(());
        }
        if !answer.starts_with(&starttls(xid)) {
            if stream.read(&mut [0]).await? > 0 {
                self.clear.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(());
        }
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        self.encrypted.fetch_add(1, Ordering::Relaxed);
        let mut server = TcpStream::connect(self.to).await?;
        copy_bidirectional(&mut stream, &mut server).await.map(drop)
    }
}

/// The answer of a server that has TLS.
pub fn starttls(xid: u32) -> Vec<u8> {
    let mut message = Writer::default();
    for word in [0, xid, REPLY, 0, rpc::AUTH_NONE] {
        message.u32(word);
    }
    message.opaque(b"STARTTLS").u32(0);
    mark(message)
}

/// A file that is not there.
pub fn nowhere() -> PathBuf {
    Path::new("/nowhere/tls.pem").to_owned()
}
