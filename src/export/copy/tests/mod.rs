//! Copies of trees, in memory and on a local directory.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::export::fs::Name;
use crate::testing::conformance::{Compared, assert_same_tree};

mod faults;
mod nasty;
pub(crate) mod random;
mod tenants;

fn name(text: impl AsRef<[u8]>) -> Name {
    Name::new(text).unwrap()
}

const EXACT: Compared = Compared { atimes: true, holes: true, link_times: true };

async fn copy<F: Fs>(source: &F, from: &F::Handle, target: &F, to: &F::Handle) -> Result<Totals, CopyError> {
    let (progress, cancel) = (Progress::default(), CancellationToken::new());
    copy_tree(source, from, target, to, &Options::default(), &progress, &cancel).await
}

/// Two new directories below the root.
async fn two<F: Fs>(fs: &F) -> (F::Handle, F::Handle) {
    let from = fs.mkdir(&fs.root(), &name("from"), 0o755).await.unwrap().0;
    (from, fs.mkdir(&fs.root(), &name("to"), 0o700).await.unwrap().0)
}
