//! Full logs, written as the server writes them: mostly delivered at once, some after a retry, some failed.

use bytes::Bytes;
use postrider::domain::clock::UnixMillis;
use postrider::domain::delivery::{
    AttemptSummary, Delivery, DeliveryRecord, FailReason, LastAttempt, Standing, Tried,
};
use postrider::domain::ids::{ConfigId, ConfigSequence, EventId, ShardNumber, StreamId};
use postrider::domain::log::{LogRow, PageBuilder, PageKey, Status};
use postrider::domain::outcome::Outcome;
use postrider::redis::keys::Keys;

use crate::store::{EVENT, NAMESPACE, Store};
use crate::{Args, Failure};

/// Configs of one organisation.
pub(crate) const CONFIGS_EACH: u32 = 100;

/// The first sequence number, far from those of the configs that deliveries go to.
const FIRST: u32 = 100_000;

/// From the beginning of an attempt to its page.
const PAGE_AFTER_MS: u64 = 10;

/// Of so many deliveries one has failed.
const FAILED_EACH: u64 = 20;

const URL: &str = "https://receiver.example/hooks/postrider";

/// The organisation with this number.
pub(crate) fn organisation(number: u32) -> String {
    format!("org_logs_{number}")
}

/// Deliveries of one config: of its log, and those that failed before it.
pub(crate) fn deliveries(args: &Args) -> u64 {
    rows(args) + u64::from(args.older_failed)
}

/// Rows of one log, each of another delivery: whole pages.
fn rows(args: &Args) -> u64 {
    u64::from(args.rows.div_ceil(args.rows_per_page) * args.rows_per_page)
}

/// Deliveries that match a query, of an organisation with so many configs.
pub(crate) fn wanted(args: &Args, query: &str, configs: usize) -> u64 {
    match (query.contains("CONFIG"), query.contains("failed")) {
        (false, _) => deliveries(args) * configs as u64,
        (true, false) => deliveries(args),
        (true, true) => rows(args).div_ceil(FAILED_EACH) + u64::from(args.older_failed),
    }
}

/// What was written: ids of configs.
pub(crate) struct Filled {
    /// Those with a full log.
    pub(crate) logs: Vec<String>,
    /// One of the first organisation without any row.
    pub(crate) empty: String,
}

/// Writes the configs and their logs.
pub(crate) fn fill(store: &Store, args: &Args) -> Result<Filled, Failure> {
    let mut connection = store.connection()?;
    let control = Keys::new(NAMESPACE).ok_or("the namespace is not acceptable")?;
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query(&mut connection)?;
    let first_ms = seconds * 1_000 - 3_600_000;
    let mut logs = Vec::new();
    for number in 0..args.configs {
        let id = config_id(number);
        let mut pipeline = redis::pipe();
        write_config(&mut pipeline, &control, id, &organisation(number / CONFIGS_EACH));
        write_log(&mut pipeline, store, args, id, first_ms)?;
        pipeline.query::<()>(&mut connection)?;
        logs.push(id.to_string());
    }
    let empty = config_id(args.configs);
    let mut pipeline = redis::pipe();
    write_config(&mut pipeline, &control, empty, &organisation(0));
    pipeline.query::<()>(&mut connection)?;
    Ok(Filled { logs, empty: empty.to_string() })
}

fn config_id(number: u32) -> ConfigId {
    let random = (u64::from(number) + 7).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    ConfigId::new(random, ConfigSequence(FIRST + number))
}

fn write_config(pipeline: &mut redis::Pipeline, control: &Keys, id: ConfigId, organisation: &str) {
    let config = serde_json::json!({
        "kind": "config", "id": id, "organisation": organisation, "version": 1,
        "url": URL, "events": ["log.filled"], "secret": "whsec_log_queries_0123456789abcdef",
        "active": true, "maxRetries": 3, "headers": {}, "createdAt": 1, "updatedAt": 1,
    });
    pipeline.cmd("HSET").arg(control.configs()).arg(id.to_string()).arg(config.to_string()).ignore();
}

fn write_log(
    pipeline: &mut redis::Pipeline,
    store: &Store,
    args: &Args,
    config: ConfigId,
    first_ms: u64,
) -> Result<(), Failure> {
    let pages = args.rows.div_ceil(args.rows_per_page);
    for page in 0..pages {
        // Every log spans the same hour, so the newest pages of an organisation lie in all of them.
        let ms = first_ms + u64::from(page) * 3_500_000 / u64::from(pages);
        let mut builder = PageBuilder::new(PageKey(u64::from(page).to_be_bytes()));
        for row in 0..args.rows_per_page {
            let event = EventId::new(ShardNumber(0), StreamId { ms: ms - 20, seq: u64::from(row) })?;
            let row = row_of(event, config, ms, page * args.rows_per_page + row);
            if row.status == Status::Failed {
                write_record(pipeline, store, config, &row);
            }
            builder.push(&row, None);
        }
        let packed = builder.finish().ok_or("an empty page")?;
        pipeline
            .cmd("XADD")
            .arg(store.keys.log(config))
            .arg(format!("{ms}-*"))
            .arg("p")
            .arg(packed.log)
            .ignore();
    }
    for number in 0..args.older_failed {
        let ms = first_ms - 60_000 - u64::from(number);
        let event = EventId::new(ShardNumber(0), StreamId { ms: ms - 20, seq: 0 })?;
        write_record(pipeline, store, config, &row_of(event, config, ms, 0));
    }
    Ok(())
}

/// One of [`FAILED_EACH`] has failed, one of 50 was delivered by its first retry.
fn row_of(event: EventId, config: ConfigId, ms: u64, number: u32) -> LogRow {
    let (status, attempt, answer) = match number {
        n if u64::from(n).is_multiple_of(FAILED_EACH) => (Status::Failed, 4, 503),
        n if n.is_multiple_of(50) => (Status::Delivered, 2, 200),
        _ => (Status::Delivered, 1, 200),
    };
    let summary = |attempt| AttemptSummary {
        attempt,
        at: UnixMillis(ms - PAGE_AFTER_MS),
        took_ms: 9,
        status: Some(503),
        outcome: Outcome::Retryable,
    };
    LogRow {
        delivery: event.delivery(config.sequence()),
        event_type: EVENT.into(),
        url: URL.into(),
        status,
        attempt,
        at: UnixMillis(ms - PAGE_AFTER_MS),
        created_at: UnixMillis(ms - 20),
        next_attempt_at: None,
        response_status: Some(answer),
        excerpt: Bytes::from_static(b"{\"ok\":true}"),
        error: None,
        reason: (status == Status::Failed).then_some(FailReason::Exhausted),
        took_ms: 9,
        history: if attempt > 1 { (1..=attempt).map(summary).collect() } else { Vec::new() },
        trace: None,
    }
}

fn write_record(pipeline: &mut redis::Pipeline, store: &Store, config: ConfigId, row: &LogRow) {
    let last = LastAttempt {
        at: row.at,
        url: row.url.clone(),
        status: row.response_status,
        excerpt: row.excerpt.clone(),
        error: None,
    };
    let tried = Tried { attempts: row.attempt, by_hand: 0, last: Some(last), history: row.history.clone() };
    let delivery = Delivery {
        id: row.delivery,
        config,
        event_type: row.event_type.clone(),
        traceparent: None,
        body: Bytes::from(vec![b'x'; 420]),
        created_at: row.created_at,
        tried: Tried::default(),
    };
    let record = DeliveryRecord::of(&delivery, tried, Standing::Failed(FailReason::Exhausted));
    pipeline.cmd("SET").arg(store.keys.delivery(row.delivery)).arg(record.encode()).ignore();
    // A failure and its row are written in one step, so both have the page's time.
    let failed = store.keys.failed(config);
    pipeline.cmd("ZADD").arg(failed).arg(row.at.0 + PAGE_AFTER_MS).arg(row.delivery.to_string()).ignore();
}
