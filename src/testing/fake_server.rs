//! A server that answers RPC calls as a test asks it to, for faults that no real server shows on demand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::nfs4::rpc::{REPLY, mark, record};
use crate::nfs4::xdr::Writer;

#[derive(Debug, Clone, PartialEq)]
pub enum Behaviour {
    /// Answers with the xid, followed by these words.
    Words(Vec<u32>),
    /// Answers SUCCESS with the xid of another call.
    OtherXid,
    /// Answers SUCCESS after a while.
    Slow(Duration),
    /// Sends these bytes in response to anything.
    Bytes(Vec<u8>),
    /// Accepts and reads, but does not answer.
    Silent,
    /// Accepts and closes the connection.
    Closing,
}

impl Behaviour {
    pub fn alive() -> Self {
        Self::Words(vec![REPLY, 0, 0, 0, 0])
    }
}

pub struct Server {
    pub address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    calls: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start(behaviour: Behaviour) -> Self {
        Self::on("127.0.0.1:0", behaviour).await
    }

    pub async fn on(address: &str, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (behaviour, now) = watch::channel(behaviour);
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(stream, now.borrow().clone()));
            }
        });
        Self { address, behaviour, calls }
    }

    pub fn become_(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// The number of connections that clients have made to this server.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// The most bytes of a call; those of the tests have a few dozen.
const CALL_MAX: usize = 2048;

async fn answer(mut stream: TcpStream, behaviour: Behaviour) -> std::io::Result<()> {
    if behaviour == Behaviour::Closing {
        return Ok(());
    }
    let call = record(&mut stream, CALL_MAX).await?;
    let xid = u32::from_be_bytes(call[..4].try_into().unwrap());
    let words = match behaviour {
        Behaviour::Words(words) => [vec![xid], words].concat(),
        Behaviour::OtherXid => vec![!xid, REPLY, 0, 0, 0, 0],
        Behaviour::Slow(delay) => {
            tokio::time::sleep(delay).await;
            vec![xid, REPLY, 0, 0, 0, 0]
        }
        Behaviour::Bytes(bytes) => return stream.write_all(&bytes).await,
        Behaviour::Silent | Behaviour::Closing => std::future::pending().await,
    };
    let mut reply = Writer::default();
    reply.u32(0);
    words.into_iter().for_each(|word| _ = reply.u32(word));
    stream.write_all(&mark(reply)).await
}
