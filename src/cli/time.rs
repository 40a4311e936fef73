//! Moments on the command line: an instant, or how long ago it was.

use crate::domain::clock::{Clock, UnixMillis};
use crate::settings::text::duration;

/// Reads ISO-8601 with a zone, or a duration before now, as `15m`.
pub(super) fn moment(text: &str) -> Result<UnixMillis, String> {
    if let Some(time) = UnixMillis::parse_iso8601(text) {
        return Ok(time);
    }
    let expected = "expected ISO-8601 with a zone, as 2026-05-01T09:00:00Z, or a duration ago, as 15m";
    let ago = duration::parse(text).map_err(|_| expected.to_owned())?;
    let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
    Ok(UnixMillis(Clock::default().now().0.saturating_sub(ago_ms)))
}
