//! Repeatable random numbers. The seed is printed, and `CSI_NFS_E2E_SEED` sets it.

/// A generator with the seed `CSI_NFS_E2E_SEED`, or with a new seed.
pub fn seeded() -> fastrand::Rng {
    let seed = std::env::var("CSI_NFS_E2E_SEED").ok().map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("CSI_NFS_E2E_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
