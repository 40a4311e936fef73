//! Every setting of the process as one validated value, one file per section.
//!
//! Owns: names, defaults, units, reasons (`table`), and the order file < environment < flags (`load`).
//! May use: `domain`.
//! Reading reports every mistake at once; what exists is valid.

pub mod addresses;
pub mod admin;
pub mod delivery;
pub mod egress;
pub mod health;
pub mod keys;
pub mod limits;
pub mod load;
pub mod otlp;
pub mod process;
pub mod redis;
pub mod retention;
pub mod rules;
pub mod table;
pub mod text;
pub mod words;

use self::admin::AdminSettings;
use self::delivery::DeliverySettings;
use self::health::HealthSettings;
use self::limits::LimitSettings;
use self::process::ProcessSettings;
use self::redis::RedisSettings;
use self::retention::RetentionSettings;

/// All settings.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which Redis, which namespace, how many shards.
    pub redis: RedisSettings,
    /// Listeners, roles, data directory, worker count.
    pub process: ProcessSettings,
    /// The admin API's listener.
    pub admin: AdminSettings,
    /// How one attempt is made and when it is repeated.
    pub delivery: DeliverySettings,
    /// When an endpoint that fails is left alone.
    pub health: HealthSettings,
    /// Bounds on what is held in memory and in flight.
    pub limits: LimitSettings,
    /// Bounds on what is kept in Redis.
    pub retention: RetentionSettings,
}
