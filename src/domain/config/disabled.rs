//! Why Postrider set a config to inactive (docs/WIRE.md section 4).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::clock::UnixMillis;

/// Why and when Postrider disabled a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// The reason.
    pub reason: DisabledReason,
    /// When.
    pub at: UnixMillis,
    /// Failing: since when there was nothing but failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMillis>,
    /// Failing: the failed attempts since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u64>,
}

/// Why Postrider disabled a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum DisabledReason {
    /// The receiver answered 410.
    Gone,
    /// There was nothing but failures for days; what waits is held, as where the config is paused.
    Failing,
}
