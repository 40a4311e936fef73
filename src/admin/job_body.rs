//! The bodies of recover and replay, and jobs as answers show them (docs/WIRE.md section 11).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::body::{Mistakes, whole_number};
use super::described::{EventTypeText, Time};
use crate::domain::clock::UnixMillis;
use crate::domain::config::EventType;
use crate::domain::job::{Job, JobKind, JobState, Progress, RATE_DEFAULT, RATE_MAX};

/// What a recover or a replay is to bring. Every field may be left out; an unknown one is refused, for a word that is
/// misspelt must not widen the work.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code)] // The description's form of what [`JobRequest::parse`] takes field by field.
pub struct JobRequestBody {
    /// From this time on, included.
    #[schema(value_type = Option<Time>)]
    since: Option<String>,
    /// Up to this time, excluded; now where it is left out, or later.
    #[schema(value_type = Option<Time>)]
    until: Option<String>,
    /// Only events of this type.
    #[schema(value_type = Option<EventTypeText>)]
    event: Option<String>,
    /// Only counts what would be brought.
    dry_run: Option<bool>,
    /// Deliveries or events a second.
    #[schema(minimum = 1, maximum = 5000, default = 100)]
    rate_per_second: Option<u32>,
}

/// As [`JobRequestBody`], for a replay, which needs to know where to begin.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code)] // As JobRequestBody.
pub struct ReplayRequestBody {
    /// From this time on, included.
    #[schema(value_type = Time)]
    since: String,
    /// Up to this time, excluded; now where it is left out, or later.
    #[schema(value_type = Option<Time>)]
    until: Option<String>,
    /// Only events of this type.
    #[schema(value_type = Option<EventTypeText>)]
    event: Option<String>,
    /// Only counts what would be brought.
    dry_run: Option<bool>,
    /// Deliveries or events a second.
    #[schema(minimum = 1, maximum = 5000, default = 100)]
    rate_per_second: Option<u32>,
}

/// The body, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRequest {
    /// From this time on.
    pub since: Option<UnixMillis>,
    /// Up to this time.
    pub until: Option<UnixMillis>,
    /// Only this type.
    pub event: Option<String>,
    /// Only count.
    pub dry_run: bool,
    /// A second.
    pub rate_per_second: u32,
}

/// The answer to a dry run.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// How many would be brought.
    pub count: u64,
    /// There may be more than `count`.
    pub count_is_floor: bool,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShownJob {
    /// `job_` and 16 hexadecimal digits.
    id: String,
    webhook_config_id: String,
    kind: JobKind,
    state: JobState,
    /// Deliveries or events that matched when it began.
    total: u64,
    /// There may have been more than `total`.
    total_is_floor: bool,
    /// How many it has moved so far.
    moved: u64,
    /// How many it found and could not move: gone since, or without their payload.
    skipped: u64,
    rate_per_second: u32,
    since: String,
    until: String,
    /// The event type, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    /// The time of what it looked at last.
    reached: Option<String>,
    started_at: String,
    /// When it last did something.
    updated_at: String,
    ended_at: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The token that asked for it.
    who: String,
}

/// A config's jobs, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShownJobs {
    /// The jobs.
    pub jobs: Vec<ShownJob>,
}

// === impl JobRequest ===

impl JobRequest {
    /// Checks a body; an empty one asks for everything.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let blank = bytes.iter().all(u8::is_ascii_whitespace);
        let bytes = if blank { b"{}" } else { bytes };
        let parsed = serde_json::from_slice::<Map<String, Value>>(bytes);
        let parsed = parsed.map_err(|error| format!("expected a JSON object: {error}"));
        let Some(fields) = mistakes.keep("body", parsed) else { return Err(mistakes) };
        let mut request =
            Self { since: None, until: None, event: None, dry_run: false, rate_per_second: RATE_DEFAULT };
        for (name, value) in fields {
            let shown: String = name.chars().take(64).collect();
            if let Err(expected) = request.set(&name, &value) {
                mistakes.add(format_args!("body.{shown}"), expected);
            }
        }
        if let (Some(since), Some(until)) = (request.since, request.until)
            && since > until
        {
            mistakes.add("body.since", "expected a time not after until");
        }
        if mistakes.is_empty() { Ok(request) } else { Err(mistakes) }
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
        let time = || {
            value
                .as_str()
                .and_then(UnixMillis::parse_iso8601)
                .ok_or("expected an ISO-8601 time with its zone, as in 2026-05-01T09:00:00.000Z")
        };
        match name {
            "since" | "until" | "event" | "dryRun" | "ratePerSecond" if value.is_null() => {}
            "since" => self.since = Some(time()?),
            "until" => self.until = Some(time()?),
            "event" => {
                let event = value.as_str().and_then(|text| EventType::new(text).ok());
                let event = event.ok_or("expected an event type, as in 'reward.earned'")?;
                self.event = Some(event.as_str().to_owned());
            }
            "dryRun" => self.dry_run = value.as_bool().ok_or("expected true or false")?,
            "ratePerSecond" => {
                let rate = whole_number(value).and_then(|rate| u32::try_from(rate).ok());
                self.rate_per_second = rate
                    .filter(|rate| (1..=RATE_MAX).contains(rate))
                    .ok_or_else(|| format!("expected a whole number from 1 to {RATE_MAX}"))?;
            }
            _ => return Err("not known; known are since, until, event, dryRun, ratePerSecond".to_owned()),
        }
        Ok(())
    }
}

// === impl ShownJob ===

impl ShownJob {
    /// A job with how far it is.
    #[must_use]
    pub fn of(job: &Job, progress: &[Progress]) -> Self {
        let sum = Progress::sum(progress);
        let updated_at = [Some(job.started_at), sum.updated_at, job.ended_at].into_iter().flatten().max();
        Self {
            id: job.id.to_string(),
            webhook_config_id: job.config.to_string(),
            kind: job.kind,
            state: job.state,
            total: job.total,
            total_is_floor: job.total_is_floor,
            moved: sum.moved,
            skipped: sum.skipped,
            rate_per_second: job.rate_per_second,
            since: job.selection.since.to_string(),
            until: job.selection.until.to_string(),
            event: job.selection.event.clone(),
            reached: sum.reached.map(|at| at.to_string()),
            started_at: job.started_at.to_string(),
            updated_at: updated_at.unwrap_or(job.started_at).to_string(),
            ended_at: job.ended_at.map(|at| at.to_string()),
            reason: job.reason.clone(),
            who: job.who.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_body_asks_for_everything() {
        for text in ["", " \n", "{}", r#"{"since":null,"dryRun":null}"#] {
            let request = JobRequest::parse(text.as_bytes()).unwrap();
            assert_eq!((request.since, request.until, request.event), (None, None, None), "{text}");
            assert_eq!((request.dry_run, request.rate_per_second), (false, RATE_DEFAULT));
        }
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let text = r#"{"since":"yesterday","until":5,"event":"No Type","dryRun":"yes","ratePerSecond":0,"untill":null}"#;
        let told = JobRequest::parse(text.as_bytes()).unwrap_err().to_string();
        for name in ["since", "until", "event", "dryRun", "ratePerSecond", "untill"] {
            assert!(told.contains(&format!("body.{name}: ")), "{name}: {told}");
        }
        for text in ["[]", "5", "{", r#"{"since":"2026-05-02T00:00:00Z","until":"2026-05-01T00:00:00Z"}"#] {
            assert!(JobRequest::parse(text.as_bytes()).is_err(), "{text}");
        }
        for rate in ["5001", "-1", "1.5", "\"5\""] {
            let text = format!("{{\"ratePerSecond\":{rate}}}");
            assert!(JobRequest::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
