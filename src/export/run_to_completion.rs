//! Work that continues when its caller is gone.

use std::future::Future;

use tracing::Instrument as _;

use crate::error::{Error, Result};

/// Runs `work` to completion, even if the caller drops this future.
pub async fn run_to_completion<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let done = tokio::spawn(work.in_current_span()).await;
    done.unwrap_or_else(|error| Err(Error::Internal(format!("the work on the export broke off: {error}"))))
}
