//! The space that snapshots use, for the metrics. The agent on each server counts it, and this module reads the
//! figures.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::export::pool::{Connect, Pool};
use crate::volume::quota;

/// The pause between two reads of the agents' figures.
const EVERY: Duration = Duration::from_secs(60);
/// The pause as long as no agent has a figure.
const SOON: Duration = Duration::from_secs(5);

/// The bytes that snapshots use, by export.
#[derive(Debug, Default)]
pub struct Usage(Mutex<BTreeMap<String, u64>>);

impl Usage {
    /// The last figures of the exports that are connected.
    pub fn known(&self) -> BTreeMap<String, u64> {
        self.all().clone()
    }

    /// Reads the figures of the connected exports repeatedly, without end. Never connects an export.
    pub async fn keep<C: Connect>(&self, pool: &Pool<C>) {
        loop {
            let mut all = BTreeMap::new();
            for export in pool.connected() {
                match quota::snapshots(&export).await {
                    Ok(Some(snapshots)) => drop(all.insert(export.source().to_string(), snapshots.bytes)),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(export = %export.source(), %error, "cannot read how much space snapshots use")
                    }
                }
            }
            let pause = if all.is_empty() { SOON } else { EVERY };
            *self.all() = all;
            tokio::time::sleep(pause).await;
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::testing::crash_harness::connect;
    use crate::testing::memory::{MemoryServer, Node};

    #[tokio::test(start_paused = true)]
    async fn the_figure_of_an_export_is_known_soon_after_its_agent_has_counted() {
        let server = MemoryServer::new();
        let (export, usage) = (connect(&server), Usage::default());
        let figures = async {
            let reading = usage.keep(export.exports.pool());
            tokio::pin!(reading);
            timeout(Duration::from_millis(1), &mut reading).await.unwrap_err();
            let before = usage.known();
            let counted = quota::Snapshots { project: 1, bytes: 4096, inodes: 3 };
            let content = serde_json::to_string(&counted).unwrap();
            server.plant(".csi-nfs/quota/snapshots.json", Node::file(0o600, content)).unwrap();
            timeout(SOON, &mut reading).await.unwrap_err();
            (before, usage.known())
        };
        assert_eq!(figures.await, (BTreeMap::new(), [("nfs:/export".to_owned(), 4096)].into()));
    }
}
