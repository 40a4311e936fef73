//! Fates of deliveries: what the settle script is asked to do, and what it answers.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};

use super::answer::Answer;
use super::connection::{RedisError, Result};
use super::deliveries::{Claim, millis};
use super::keys::ShardKeys;
use super::scripts::SETTLE;
use crate::domain::ids::{ConfigId, DeliveryId, StreamId};
use crate::domain::log::PackedPage;
use crate::settings::retention::RetentionSettings;

/// What proves that the caller may decide a delivery's fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Its event is pending for this consumer, and the delivery has no record yet.
    Pending {
        /// The event.
        event: StreamId,
        /// The consumer that read it.
        consumer: std::rc::Rc<str>,
    },
    /// Its score in the queue is still the one that the caller's claim set.
    Claimed(Claim),
}

/// The fate to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into the queue, due after `delay`.
    Queue {
        /// Until it is due.
        delay: Duration,
        /// Until the scheduler looks at its config.
        look: Duration,
        /// The record.
        record: Vec<u8>,
        /// The body, where it lies apart and the delivery has no record yet; else empty.
        apart: Bytes,
    },
    /// Into the queue as claimed by the caller for `lease`: its attempt is still under way.
    HandOff {
        /// How long the claim holds.
        lease: Duration,
        /// The record.
        record: Vec<u8>,
        /// As in `Queue`.
        apart: Bytes,
    },
    /// Into the failed set.
    Fail {
        /// The record.
        record: Vec<u8>,
        /// As in `Queue`.
        apart: Bytes,
    },
    /// Delivered: record, queue entry and body share go.
    Finish,
}

/// One delivery's fate, to be applied.
#[derive(Clone, Debug)]
pub struct Fate {
    /// The delivery.
    pub id: DeliveryId,
    /// Why the caller may decide.
    pub proof: Proof,
    /// What is decided.
    pub step: Step,
}

/// What became of a fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is durable; with the delivery's new score.
    Now(Claim),
    /// An earlier application, or an earlier owner's, was durable already; with the delivery's score in the queue,
    /// 0 where it is not there.
    Before(Claim),
    /// Not applied: the queue is full.
    QueueFull,
    /// Not applied: the caller no longer owns the delivery.
    Lost,
}

/// The answer of one settle call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Per delivery, in the call's order.
    pub applied: Vec<Applied>,
    /// Deliveries in the failed set.
    pub failed_count: u64,
    /// Bytes of their records.
    pub failed_bytes: u64,
}

/// The command that settles up to [`BATCH_MAX`] deliveries of one config and writes their log page.
///
/// [`BATCH_MAX`]: super::deliveries::BATCH_MAX
#[must_use]
pub fn settle_command(
    keys: &ShardKeys,
    config: ConfigId,
    fates: &[Fate],
    page: Option<&PackedPage>,
    retention: &RetentionSettings,
) -> Cmd {
    let mut more_keys = Vec::with_capacity(2 * fates.len());
    let mut more_args = Vec::with_capacity(9 * fates.len());
    for fate in fates {
        more_keys.push(keys.delivery(fate.id));
        more_keys.push(keys.body(fate.id.event().stream_id()));
        fate.push_args(&mut more_args);
    }
    let empty: &[u8] = &[];
    let log = page.map_or(empty, |page| &page.log);
    let payloads = page.and_then(|page| page.payloads.as_deref()).unwrap_or(empty);
    SETTLE.call_batch(
        [
            &keys.events(),
            &keys.queue(config),
            &keys.due(),
            &keys.failed(config),
            &keys.size(config),
            &keys.log(config),
            &keys.bodies(config),
        ],
        &more_keys,
        [
            config.to_string().as_bytes(),
            &config.bytes(),
            log,
            payloads,
            retention.queue_max.to_string().as_bytes(),
            retention.queue_bytes_max.to_string().as_bytes(),
            retention.log_age_max.as_millis().to_string().as_bytes(),
        ],
        &more_args,
    )
}

/// Reads the answer of [`settle_command`] for `count` deliveries.
///
/// # Errors
/// When it has another shape.
pub fn settle_answer(value: Value, count: usize) -> Result<Settled> {
    let operation = "settling deliveries";
    let mut answer = Answer::new(operation, value)?;
    let applied = (0..count)
        .map(|_| {
            let (status, score) = (answer.int()?, answer.int()?);
            match status {
                0 => Ok(Applied::Lost),
                1 => Ok(Applied::Now(Claim(score))),
                2 => Ok(Applied::Before(Claim(score))),
                3 => Ok(Applied::QueueFull),
                other => Err(RedisError::answer(operation, format!("status {other}"))),
            }
        })
        .collect::<Result<_>>()?;
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Settled { applied, failed_count: number(answer.int()?), failed_bytes: number(answer.int()?) })
}

// === impl Fate ===

impl Fate {
    fn push_args(&self, args: &mut Vec<Vec<u8>>) {
        args.push(self.id.to_string().into_bytes());
        match &self.proof {
            Proof::Pending { event, consumer } => {
                args.extend([b"p".to_vec(), event.to_string().into_bytes(), consumer.as_bytes().to_vec()]);
            }
            Proof::Claimed(claim) => {
                let event = self.id.event().stream_id().to_string().into_bytes();
                args.extend([b"c".to_vec(), claim.0.to_string().into_bytes(), event]);
            }
        }
        let zero = || b"0".to_vec();
        match &self.step {
            Step::Queue { delay, look, record, apart } => {
                args.extend([b"q".to_vec(), millis(*delay), millis(*look), record.clone(), apart.to_vec()]);
            }
            Step::HandOff { lease, record, apart } => {
                args.extend([b"h".to_vec(), millis(*lease), millis(*lease), record.clone(), apart.to_vec()]);
            }
            Step::Fail { record, apart } => {
                args.extend([b"f".to_vec(), zero(), zero(), record.clone(), apart.to_vec()]);
            }
            Step::Finish => args.extend([b"d".to_vec(), zero(), zero(), Vec::new(), Vec::new()]),
        }
    }
}
