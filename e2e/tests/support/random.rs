//! Repeatable randomness: the seed is printed, and can be set by `CSI_NFS_E2E_SEED`.

/// A generator with a new seed, or with the given one.
pub fn seeded() -> fastrand::Rng {
    let seed = std::env::var("CSI_NFS_E2E_SEED").ok().map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("CSI_NFS_E2E_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
