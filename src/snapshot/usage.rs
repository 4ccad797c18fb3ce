//! What snapshots take, for whoever watches the driver: the agent on the server counts it, and here it is read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::export::pool::{Connect, Pool};
use crate::volume::quota;

/// How often the agents' figures are read.
const EVERY: Duration = Duration::from_secs(60);
/// And as long as there are none.
const SOON: Duration = Duration::from_secs(5);

/// Bytes, by export.
#[derive(Debug, Default)]
pub struct Usage(Mutex<BTreeMap<String, u64>>);

impl Usage {
    /// What was read last, of the exports in use.
    pub fn known(&self) -> BTreeMap<String, u64> {
        self.all().clone()
    }

    /// Reads it again and again, for ever. Exports are not connected to for that.
    pub async fn keep<C: Connect>(&self, pool: &Pool<C>) {
        loop {
            let mut all = BTreeMap::new();
            for export in pool.connected() {
                match quota::snapshots(&export).await {
                    Ok(Some(snapshots)) => drop(all.insert(export.source().to_string(), snapshots.bytes)),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(export = %export.source(), %error, "what snapshots take is not known")
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
