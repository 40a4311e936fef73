//! Events, added as a producer would: all at once, or steadily.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::receiver::Receiver;
use crate::store::{EVENT, Store, organisation};
use crate::{Failure, pause};

/// Events are added in steps of this.
const STEP: Duration = Duration::from_millis(4);
const PIPELINE: u64 = 500;

/// About 420 bytes of body.
const NOTE: &str = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\
nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";

/// Adds `count` events to the configs in turn, without a time in their nonces.
pub(crate) fn preload(store: &Store, configs: Range<u32>, count: u64) -> Result<(), Failure> {
    let mut connection = store.connection()?;
    let mut turn = configs.clone().cycle();
    for start in (0..count).step_by(usize::try_from(PIPELINE)?) {
        let mut pipeline = redis::pipe();
        for number in start..count.min(start + PIPELINE) {
            add(&mut pipeline, store, turn.next().unwrap_or(0), 0, number);
        }
        pipeline.query::<()>(&mut connection)?;
    }
    Ok(())
}

/// Adds `rate` events a second to the configs in turn for `time`; gives the rate that was reached and
/// the slowest step: what Redis alone took.
pub(crate) fn steady(
    store: &Store,
    receiver: &Receiver,
    configs: Range<u32>,
    rate: u64,
    time: Duration,
) -> Result<(f64, Duration), Failure> {
    let mut connection = store.connection()?;
    let mut turn = configs.clone().cycle();
    let (began, mut added, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
    while began.elapsed() < time {
        let wanted = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        let mut pipeline = redis::pipe();
        let now = receiver.now_micros();
        while added < wanted {
            add(&mut pipeline, store, turn.next().unwrap_or(0), now, added);
            added += 1;
        }
        if !pipeline.is_empty() {
            let step = Instant::now();
            pipeline.query::<()>(&mut connection)?;
            slowest = slowest.max(step.elapsed());
        }
        pause(STEP);
    }
    Ok((added as f64 / began.elapsed().as_secs_f64(), slowest))
}

fn add(pipeline: &mut redis::Pipeline, store: &Store, config: u32, micros: u64, number: u64) {
    pipeline
        .cmd("XADD")
        .arg(store.keys.events())
        .arg("*")
        .arg(&[("organisationId", organisation(config).as_str()), ("event", EVENT)])
        .arg(&[("data", format!("{{\"note\":\"{NOTE}\"}}")), ("nonce", format!("{micros}-{number}"))])
        .ignore();
}
