//! The lease of the replica that samples a shard for all of them.

use std::time::Duration;

use super::connection::{Link, Result};
use super::keys::ShardKeys;
use super::scripts::LEASE_SAMPLING;

/// Takes or renews the lease of `replica`; true when it holds it now.
///
/// # Errors
/// Redis's.
pub async fn hold(link: &Link, keys: &ShardKeys, replica: &str, lease: Duration) -> Result<bool> {
    let lease = lease.as_millis().max(1).to_string();
    let call = LEASE_SAMPLING.call([&keys.sampler()], [replica.as_bytes(), lease.as_bytes()]);
    link.query::<i64>("leasing the sampling of a shard", &call).await.map(|held| held == 1)
}

/// Gives the lease back, if `replica` holds it.
///
/// # Errors
/// Redis's: then it ends by itself.
pub async fn let_go(link: &Link, keys: &ShardKeys, replica: &str) -> Result<()> {
    let call = LEASE_SAMPLING.call([&keys.sampler()], [replica.as_bytes(), b"0"]);
    link.query::<i64>("leaving the sampling of a shard", &call).await.map(drop)
}
