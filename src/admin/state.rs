//! What every handler of the admin API is given. Owns nothing: each part belongs to the process.

use std::sync::Arc;

use crate::domain::clock::Clock;
use crate::redis::connection::Redis;
use crate::redis::directory::Directory;
use crate::redis::keys::ShardKeys;
use crate::settings::Settings;

/// The parts of the process that handlers use. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// Redis, over the pool.
    pub redis: Redis,
    /// Every shard of the keyspace, in the order of its number.
    pub shards: Arc<[ShardKeys]>,
    /// Configs and tokens as followed.
    pub directory: Arc<Directory>,
    /// Settings.
    pub settings: Arc<Settings>,
    /// Time that is stored or shown.
    pub clock: Arc<Clock>,
}
