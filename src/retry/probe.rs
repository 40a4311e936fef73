//! The probe of a config whose breaker is open: one delivery, by one replica, when the open time is past
//! (`domain::breaker`). How it ends is told by the breaker of its lane.

use std::time::Duration;

use super::scheduler::{Begun, FULL_LOOK, Scheduler};
use crate::domain::breaker::{Health, Input};
use crate::domain::clock::UnixMillis;
use crate::domain::ids::ConfigId;
use crate::redis::connection::Result;

// === impl Scheduler ===

impl Scheduler {
    /// Asks to make the one probe of a config whose breaker is open; the winner attempts one delivery.
    pub(super) async fn probe(&self, config: ConfigId, version: u64) -> Result<Option<UnixMillis>> {
        let parts = &self.parts;
        let Some(permit) = parts.lanes.reserve_probe(config) else {
            return self.claim(config, Vec::new(), FULL_LOOK, None).await.map(|begun| begun.next);
        };
        let breaker = parts.lanes.breaker(config);
        let holder = format!("{:016x}", rand::random::<u64>());
        let policy = parts.settings.health.policy(parts.settings.delivery.request_timeout);
        let take = |health: &Health, now| {
            health.after(Input::TakeProbe { holder: &holder }, now, &policy, rand::random())
        };
        let Some(taken) = parts.link.change_health(config, version, take).await? else {
            // The config was written meanwhile; its change brings a visit.
            return self.claim(config, Vec::new(), FULL_LOOK, None).await.map(|begun| begun.next);
        };
        breaker.apply(Some(&taken.after).filter(|health| !health.is_unremarkable()), taken.now);
        if !taken.after.is_held_by(&holder) {
            drop(permit);
            let hold = breaker.shut_for(std::time::Instant::now()).unwrap_or_default();
            return self.claim(config, Vec::new(), hold, None).await.map(|begun| begun.next);
        }
        parts.metrics.breaker_to(taken.after.state).increment(1);
        let begun = self.claim(config, vec![permit], Duration::ZERO, Some(&holder)).await;
        if !matches!(begun, Ok(Begun { attempts: 1.., .. })) {
            let unused = |health: &Health, now| {
                health.after(Input::ProbeUnused { holder: &holder }, now, &policy, rand::random())
            };
            if let Some(back) = parts.link.change_health(config, version, unused).await? {
                breaker.apply(Some(&back.after), back.now);
            }
        }
        begun.map(|begun| begun.next)
    }
}
