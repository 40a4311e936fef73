//! A job: long work that somebody asked for by hand, for one config (docs/WIRE.md section 11, "Jobs"): what it is to
//! do, how it stands, how far it is. Pure; who runs it is told in `upkeep`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::clock::UnixMillis;
use super::config::Config;
use super::event::Event;
use super::ids::{ConfigId, InvalidId, OrganisationId};
use super::interest::{Entity, Interest};
use super::vocabulary::is_same_event;

/// Deliveries or events that a job moves a second, unless it is asked for another rate: slow enough that a healthy
/// endpoint's new events are not held up, fast enough for 10,000 in two minutes.
pub const RATE_DEFAULT: u32 = 100;

/// The fastest rate that can be asked for.
pub const RATE_MAX: u32 = 5_000;

/// `job_` and 16 hexadecimal digits, random.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobId([u8; 8]);

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum JobKind {
    /// Puts failed deliveries back into their queue.
    Recover,
    /// Appends retained events again, for one config.
    Replay,
}

/// How a job stands. All but `running` are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum JobState {
    /// Some replica works at it, or will soon.
    Running,
    /// It has reached its end.
    Done,
    /// Somebody cancelled it.
    Cancelled,
    /// It cannot go on; its reason says why.
    Failed,
}

/// What a job is about: a window of time, and an event type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selection {
    /// From this time on, included.
    pub since: UnixMillis,
    /// Up to this time, excluded; never after the job's start, so that a job never meets its own work.
    pub until: UnixMillis,
    /// Only events of this type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

/// A job as stored: written when it begins and when it ends, never between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// How it stands.
    pub state: JobState,
    /// The config that it works for.
    pub config: ConfigId,
    /// Whose config that is.
    pub organisation: OrganisationId,
    /// What it is about.
    pub selection: Selection,
    /// Deliveries or events a second, at most.
    pub rate_per_second: u32,
    /// How many matched when it began.
    pub total: u64,
    /// There may have been more than `total`.
    #[serde(default)]
    pub total_is_floor: bool,
    /// Who asked for it: the token's id and name.
    pub who: String,
    /// When it began.
    pub started_at: UnixMillis,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<UnixMillis>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far a job is on one shard; kept beside what it moves, and written by the same script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Deliveries or events moved.
    pub moved: u64,
    /// Matching ones that could not be moved any more: gone, or without their payload.
    pub skipped: u64,
    /// Where it goes on, in the words of the kind; empty at the beginning.
    pub cursor: String,
    /// The time of what it looked at last: when a delivery failed, or an event came.
    pub reached: Option<UnixMillis>,
    /// When it did something last, by Redis's clock.
    pub updated_at: Option<UnixMillis>,
    /// Nothing is left on this shard.
    pub done: bool,
}

// === impl JobId ===

impl JobId {
    /// The id with these random bytes.
    #[must_use]
    pub const fn new(random: [u8; 8]) -> Self {
        Self(random)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("job_")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = InvalidId { expected: "job_ and 16 lower-case hexadecimal digits" };
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let Some(digits) = text.strip_prefix("job_").filter(|d| d.len() == 16 && d.bytes().all(hex)) else {
            return Err(wrong);
        };
        u64::from_str_radix(digits, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| wrong)
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

// === impl Selection ===

impl Selection {
    /// Whether it wants events of this type, by either of its names.
    #[must_use]
    pub fn wants(&self, event: &str) -> bool {
        self.event.as_deref().is_none_or(|wanted| is_same_event(wanted, event))
    }

    /// Whether a retained event is one that a replay for `config`, whose interest is `interest`, brings: of its
    /// organisation, of a type that it subscribes to, let through by its filters, not meant for another config alone.
    #[must_use]
    pub fn replays(&self, config: &Config, interest: &Interest, event: &Event) -> bool {
        event.organisation == config.organisation
            && event.only_config.is_none_or(|only| only == config.id)
            && interest.wants(event, &mut Entity::default())
            && self.wants(event.event_type.as_str())
    }
}

// === impl Job ===

impl Job {
    /// This job, ended.
    #[must_use]
    pub fn ended(&self, state: JobState, now: UnixMillis, reason: Option<String>) -> Self {
        Self { state, ended_at: Some(now), reason, ..self.clone() }
    }
}

// === impl Progress ===

impl Progress {
    /// The sum of several shards' progress; `reached` is the latest.
    #[must_use]
    pub fn sum(parts: &[Self]) -> Self {
        parts.iter().fold(Self { done: true, ..Self::default() }, |sum, part| Self {
            moved: sum.moved + part.moved,
            skipped: sum.skipped + part.skipped,
            cursor: String::new(),
            reached: sum.reached.max(part.reached),
            updated_at: sum.updated_at.max(part.updated_at),
            done: sum.done && part.done,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn job_ids_round_trip(random: [u8; 8]) {
            let id = JobId::new(random);
            prop_assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
        }

        #[test]
        fn any_text_is_a_job_id_or_an_error(text in "(job_)?[0-9a-g+]{0,20}") {
            if let Ok(id) = text.parse::<JobId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn progress_of_shards_adds_up() {
        let part = |moved, reached, done| Progress {
            moved,
            skipped: 1,
            reached: Some(UnixMillis(reached)),
            done,
            ..Progress::default()
        };
        let sum = Progress::sum(&[part(3, 9, true), part(4, 7, false)]);
        assert_eq!((sum.moved, sum.skipped, sum.reached, sum.done), (7, 2, Some(UnixMillis(9)), false));
        assert!(Progress::sum(&[part(1, 1, true)]).done);
    }
}
