//! RPC-with-TLS (RFC 9289): a connection asks the server for TLS, shakes hands, and sends nothing else in clear text.
//!
//! The files are read for each connection, so that the next one uses what has replaced them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, ClientConfig, RootCertStore};

use crate::nfs4::rpc::{self, AUTH_NONE, AUTH_TLS};

/// The authorities that a machine trusts, where most distributions have them.
const OF_MACHINE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What is spoken inside (ALPN).
const PROTOCOL: &[u8] = b"sunrpc";
/// The most bytes of an answer to NULL, with the longest verifier.
const ANSWER_MAX: usize = 512;

/// Where certificates are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// `--tls-ca`: the authorities that may sign servers' certificates. Those that the machine trusts if not given.
    pub authorities: Option<PathBuf>,
    /// `--tls-cert` and `--tls-key`: what servers get to see.
    pub identity: Option<Identity>,
}

/// A certificate, with the certificates between it and its authority, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `--tls-cert`.
    pub certificate: PathBuf,
    /// `--tls-key`.
    pub key: PathBuf,
}

/// How connections to a server are encrypted.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The name or the address that the server's certificate must have.
    pub server: String,
    /// Whether the server gets to see a certificate, too.
    pub mutual: bool,
    /// Where the certificates are.
    pub files: TlsFiles,
}

/// Why a connection could not be encrypted. Nothing but the request for TLS was sent.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// This process lacks something.
    #[error("{0}")]
    Unready(String),
    /// The server has no TLS.
    #[error(
        "the server offers no TLS on this port: let it have TLS (Linux 6.4 or newer, with tlshd), or remove `xprtsec=` \
         from the mount options"
    )]
    NotOffered,
    /// The server went away.
    #[error(
        "the server ended the connection before it was encrypted ({0}): check that tlshd runs on the server, and read \
         its log"
    )]
    Ended(io::Error),
    /// The server's certificate.
    #[error("{0}")]
    Untrusted(String),
    /// The server does not trust this process.
    #[error(
        "the server refuses the driver's certificate (alert {0:?}): check that the one in `--tls-cert` has not expired, \
         and that the server trusts its authority; tlshd's log on the server says which"
    )]
    Refused(AlertDescription),
    /// Anything else.
    #[error("the TLS handshake with the server failed: {0}")]
    Failed(String),
}

impl TlsError {
    /// Whether one side does not trust the other.
    pub fn is_of_trust(&self) -> bool {
        matches!(self, Self::Untrusted(_) | Self::Refused(_))
    }
}

impl Tls {
    /// Asks the server for TLS on a new connection, and shakes hands.
    ///
    /// # Errors
    /// Why the connection cannot be used.
    pub async fn start<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> Result<TlsStream<S>, TlsError> {
        let (config, name) = (self.config().await?, self.name()?);
        let (xid, answer) = null(&mut stream, AUTH_TLS).await.map_err(TlsError::Ended)?;
        if !rpc::starts_tls(xid, &answer) {
            return Err(TlsError::NotOffered);
        }
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.map_err(|error| self.failed(error, false))?;
        // With TLS 1.3 the server looks at the client's certificate when the handshake is over on this side.
        null(&mut stream, AUTH_NONE).await.map_err(|error| self.failed(error, true))?;
        Ok(stream)
    }

    fn name(&self) -> Result<ServerName<'static>, TlsError> {
        let bare = self.server.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&self.server);
        let unusable = |_| TlsError::Unready(format!("no certificate can have the server's name `{}`", self.server));
        ServerName::try_from(bare.to_owned()).map_err(unusable)
    }

    async fn config(&self) -> Result<ClientConfig, TlsError> {
        let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let trusting = versions
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| TlsError::Unready(error.to_string()))?
            .with_root_certificates(self.authorities().await?);
        let mut config = match &self.files.identity {
            _ if !self.mutual => trusting.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let chain = certificates("--tls-cert", certificate).await?;
                let secret = PrivateKeyDer::from_pem_slice(&read("--tls-key", key).await?);
                // The error may quote the file.
                let secret = secret.map_err(|_| lacks("--tls-key", key, "private key without a password"))?;
                let unfit =
                    |error| TlsError::Unready(format!("`--tls-cert` and `--tls-key` cannot be used together: {error}"));
                trusting.with_client_auth_cert(chain, secret).map_err(unfit)?
            }
            None => {
                let missing =
                    "`xprtsec=mtls` needs a certificate and its key: give the driver `--tls-cert` and `--tls-key`";
                return Err(TlsError::Unready(missing.to_owned()));
            }
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    async fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let found = match &self.files.authorities {
            Some(file) => certificates("--tls-ca", file).await?,
            None => certificates("", Path::new(OF_MACHINE)).await.map_err(|_| {
                let none = "this machine has no certificates of authorities";
                TlsError::Unready(format!("{none} in {OF_MACHINE}: give the driver the server's by `--tls-ca`"))
            })?,
        };
        let mut store = RootCertStore::empty();
        // A bundle of many may have one that nobody can use.
        match store.add_parsable_certificates(found) {
            (0, _) => Err(TlsError::Unready("no certificate in `--tls-ca` is of an authority".to_owned())),
            _ => Ok(store),
        }
    }

    /// Why the handshake failed, or what came after it on this side.
    fn failed(&self, error: io::Error, after: bool) -> TlsError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => TlsError::Untrusted(self.untrusted(why)),
            Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) => {
                TlsError::Failed("it asks for a certificate: use `xprtsec=mtls`".to_owned())
            }
            Some(rustls::Error::AlertReceived(alert)) if self.mutual && after => TlsError::Refused(*alert),
            Some(other) => TlsError::Failed(other.to_string()),
            None => TlsError::Ended(error),
        }
    }

    /// What is wrong with the server's certificate, and what to do.
    fn untrusted(&self, why: &CertificateError) -> String {
        use CertificateError::{
            BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
            NotValidYetContext, UnknownIssuer,
        };
        match why {
            Expired | ExpiredContext { .. } => "the server's certificate has expired: renew it".to_owned(),
            NotValidYet | NotValidYetContext { .. } => {
                "the server's certificate is not valid yet: check the clocks of this machine and of the server"
                    .to_owned()
            }
            NotValidForName | NotValidForNameContext { .. } => format!(
                "the server's certificate is not for the name `{}`: let it have this name (subjectAltName), or name the \
                 server as it does",
                self.server
            ),
            // An authority with a new key may have its old name.
            UnknownIssuer | BadSignature => {
                let file = self.files.authorities.as_deref().unwrap_or(Path::new(OF_MACHINE));
                format!(
                    "the server's certificate is of an authority that is not in {}: put it there, or set `--tls-ca`",
                    file.display()
                )
            }
            other => format!("the server's certificate cannot be used: {other}"),
        }
    }
}

/// Calls NULL. Returns the number of the call, and its answer.
async fn null(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), flavor: u32) -> io::Result<(u32, Vec<u8>)> {
    let xid = rpc::fresh_xid();
    let sent = async {
        stream.write_all(&rpc::null(xid, flavor)).await?;
        stream.flush().await
    };
    // A server that refuses has said why before it closed the connection.
    let sent = sent.await;
    let answer = rpc::record(stream, ANSWER_MAX).await;
    match (answer, sent) {
        (Err(error), Err(earlier)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(earlier),
        (answer, _) => Ok((xid, answer?)),
    }
}

async fn read(flag: &str, file: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error| TlsError::Unready(format!("`{flag}`: {}: {error}", file.display()));
    tokio::fs::read(file).await.map_err(failed)
}

async fn certificates(flag: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(flag, file).await?).flatten().collect();
    if found.is_empty() { Err(lacks(flag, file, "certificate")) } else { Ok(found) }
}

fn lacks(flag: &str, file: &Path, what: &str) -> TlsError {
    TlsError::Unready(format!("`{flag}`: {} has no {what} in PEM form", file.display()))
}
