//! What the tests of the scripts share: a shard with two configs, the scripts' typed calls, and the whole keyspace
//! as lines of text, so that a test is a state before, a call, and a state after.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::domain::clock::UnixMillis;
use postrider::domain::delivery::{Delivery, DeliveryRecord, FailReason, RecordBody, Standing, Tried};
use postrider::domain::ids::{ConfigId, ConfigSequence, DeliveryId, EventId, ShardNumber, StreamId};
use postrider::domain::log::{LogPage, PackedPage, PayloadPage};
use postrider::redis::connection::Link;
use postrider::redis::deliveries::{self, Claim, ClaimRequest, Claimed};
use postrider::redis::events;
use postrider::redis::fates::{Fate, Proof, Settled, Step, settle_answer, settle_command};
use postrider::redis::keys::ShardKeys;
use postrider::settings::retention::RetentionSettings;
use redis::{Commands, Connection};

use crate::support::TestSpace;

/// The consumer that reads events in these tests.
pub const CONSUMER: &str = "reader.0";

/// A body that lies in its record, and one that lies apart.
pub const SMALL: usize = 10;
pub const LARGE: usize = 5_000;

/// A shard, a link to it, and names for what is long or random.
pub struct Walk {
    pub link: Link,
    pub raw: Connection,
    pub keys: ShardKeys,
    pub retention: RetentionSettings,
    prefix: String,
    names: Vec<(String, String)>,
}

/// Of one config; the two of a walk differ in their random part and their sequence.
pub fn config(number: u8) -> ConfigId {
    ConfigId::new([number; 8], ConfigSequence(u32::from(number)))
}

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The weight of a record with a body of `len` bytes, as the sizes count it.
pub fn weight(len: usize) -> usize {
    let apart = if len > 4_096 { len } else { 0 };
    record(config(1), len, Standing::Waiting).len() + apart
}

/// A packed record.
pub fn record(config: ConfigId, len: usize, standing: Standing) -> Vec<u8> {
    let delivery = Delivery {
        id: DeliveryId::from_bytes([0; 16]),
        config,
        event_type: Arc::from("reward.earned"),
        traceparent: None,
        body: body(len),
        created_at: UnixMillis(5),
        tried: Tried::default(),
    };
    DeliveryRecord::of(&delivery, Tried::default(), standing).encode()
}

pub fn body(len: usize) -> Bytes {
    Bytes::from(vec![b'x'; len])
}

fn apart(len: usize, first: bool) -> Bytes {
    if first && len > 4_096 { body(len) } else { Bytes::new() }
}

/// The four steps with a body of `len` bytes; `first`: the delivery has no record yet.
pub fn queue(config: ConfigId, len: usize, first: bool) -> Step {
    let record = record(config, len, Standing::Waiting);
    Step::Queue { delay: seconds(100), look: seconds(300), record, apart: apart(len, first) }
}

/// The same step, due at once.
pub fn at_once(step: Step) -> Step {
    match step {
        Step::Queue { look, record, apart, .. } => Step::Queue { delay: Duration::ZERO, look, record, apart },
        other => other,
    }
}

pub fn hand_off(config: ConfigId, len: usize) -> Step {
    let record = record(config, len, Standing::Waiting);
    Step::HandOff { lease: seconds(200), record, apart: apart(len, true) }
}

pub fn fail(config: ConfigId, len: usize, first: bool) -> Step {
    let record = record(config, len, Standing::Failed(FailReason::Refused));
    Step::Fail { record, apart: apart(len, first) }
}

/// Takes up to 64 of what is due, for 1,000 s.
pub const CLAIM: ClaimRequest = ClaimRequest {
    max: 64,
    lease: Duration::from_secs(1_000),
    overdue_by: Duration::ZERO,
    hold: Duration::from_secs(300),
};

// === impl Walk ===

impl Walk {
    pub async fn new() -> Self {
        Self::on(&TestSpace::new(), TestSpace::redis).await
    }

    /// One whose link goes another way than its plain connection.
    pub async fn on(
        space: &TestSpace,
        redis: impl Fn(&TestSpace) -> postrider::redis::connection::Redis,
    ) -> Self {
        let redis = redis(space);
        let keys = redis.keys().shard(ShardNumber(0));
        let prefix = keys.events().trim_end_matches("events").to_owned();
        let names = [1, 2].map(|n| (config(n).to_string(), format!("c{n}"))).to_vec();
        let retention = RetentionSettings::default();
        Self { link: redis.link(), raw: space.raw(), keys, retention, prefix, names }
    }

    /// Shows `text` as `name` from now on.
    pub fn name(&mut self, text: impl ToString, name: &str) {
        self.names.push((text.to_string(), name.to_owned()));
    }

    /// Makes the group, and has `consumer` read a new event; names it `e<ms>` and its deliveries `d<config>.<ms>`.
    pub async fn read_event(&mut self, ms: u64, consumer: &str) -> EventId {
        let _ = events::ensure_group(&self.link, &self.keys).await.unwrap();
        let _: String = self.raw.xadd(self.keys.events(), format!("{ms}-0"), &[("a", "b")]).unwrap();
        let read = events::read(&self.link, &self.keys, consumer, 1, None).await.unwrap();
        assert_eq!(read.iter().map(|entry| entry.id.ms).collect::<Vec<_>>(), [ms]);
        let event = EventId::new(ShardNumber(0), StreamId { ms, seq: 0 }).unwrap();
        for number in [1, 2] {
            let id = event.delivery(ConfigSequence(number));
            self.name(id, &format!("d{number}.{ms}"));
        }
        event
    }

    pub fn pending(event: EventId) -> Proof {
        Proof::Pending { event: event.stream_id(), consumer: Rc::from(CONSUMER) }
    }

    pub async fn settle_all(&self, config: ConfigId, fates: &[Fate], page: Option<&PackedPage>) -> Settled {
        let command = settle_command(&self.keys, config, fates, page, &self.retention);
        let answer = self.link.query("settling in a test", &command).await.unwrap();
        settle_answer(answer, fates.len()).unwrap()
    }

    /// Settles one delivery; the answer without the failed set's size.
    pub async fn settle(
        &self,
        config: ConfigId,
        event: EventId,
        proof: Proof,
        step: Step,
    ) -> postrider::redis::fates::Applied {
        let fate = Fate { id: event.delivery(config.sequence()), proof, step };
        self.settle_all(config, &[fate], None).await.applied[0]
    }

    pub async fn claim(&self, config: ConfigId, request: ClaimRequest) -> Claimed {
        deliveries::claim(&self.link, &self.keys, config, request).await.unwrap()
    }

    /// Makes a queued delivery due at once, as time would.
    pub fn make_due(&mut self, config: ConfigId, id: DeliveryId) {
        let _: u64 = self.raw.zadd(self.keys.queue(config), id.to_string(), 1_000).unwrap();
    }

    /// Queues a delivery of an event that was just read, and claims it.
    pub async fn claimed(&mut self, config: ConfigId, event: EventId, len: usize) -> Claim {
        let _ = self.settle(config, event, Self::pending(event), queue(config, len, true)).await;
        self.make_due(config, event.delivery(config.sequence()));
        let claimed = self.claim(config, CLAIM).await;
        assert_eq!(claimed.ids, [event.delivery(config.sequence())]);
        claimed.claim
    }

    /// The score of a failed delivery.
    pub fn failed_at(&mut self, config: ConfigId, event: EventId) -> i64 {
        let member = event.delivery(config.sequence()).to_string();
        let score: f64 = self.raw.zscore(self.keys.failed(config), member).unwrap();
        score as i64
    }

    /// Redis's time, ms.
    pub fn now(&mut self) -> i64 {
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query(&mut self.raw).unwrap();
        seconds * 1_000 + micros / 1_000
    }

    /// Every key of the namespace with all that it holds, a line a key. Times near Redis's clock are shown to
    /// the next 100 s (`~300s`), older ones whole; a key with expiry ends in `ttl`.
    pub fn state(&mut self) -> Vec<String> {
        let mut keys: Vec<String> =
            redis::cmd("KEYS").arg(format!("{}*", self.prefix)).query(&mut self.raw).unwrap();
        keys.sort();
        let mut lines: Vec<String> = keys.iter().map(|key| self.line(key)).collect();
        lines.sort();
        lines
    }

    fn line(&mut self, key: &str) -> String {
        let short = key.trim_start_matches(&self.prefix).to_owned();
        let kind: String = redis::cmd("TYPE").arg(key).query(&mut self.raw).unwrap();
        let held = match kind.as_str() {
            "string" => self.string(key, &short),
            "hash" => {
                let pairs: BTreeMap<String, String> = self.raw.hgetall(key).unwrap();
                pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
            }
            "zset" => {
                let members: Vec<(String, f64)> = self.raw.zrange_withscores(key, 0, -1).unwrap();
                let mut texts: Vec<String> = members
                    .iter()
                    .map(|(name, score)| format!("{}@{}", self.shown(name), self.time(*score as i64)))
                    .collect();
                texts.sort();
                texts.join(" ")
            }
            "stream" => self.stream(key),
            other => panic!("{key} is a {other}"),
        };
        let ttl: i64 = self.raw.pttl(key).unwrap();
        format!("{} {held}{}", self.shown(&short), if ttl > 0 { " ttl" } else { "" })
    }

    fn string(&mut self, key: &str, short: &str) -> String {
        let value: Vec<u8> = self.raw.get(key).unwrap();
        if short.starts_with("body:") {
            let owners = u32::from_be_bytes(value[..4].try_into().unwrap());
            return format!("owners={owners} bytes={}", value.len() - 4);
        }
        if !short.starts_with("delivery:") {
            return self.shown(&String::from_utf8(value).unwrap());
        }
        if DeliveryRecord::is_mark(&value) {
            let config = ConfigId::from_bytes(value[4..16].try_into().unwrap());
            return format!("{} mark", self.shown(&config.to_string()));
        }
        let record = DeliveryRecord::decode(&value).unwrap();
        let standing = match record.standing {
            Standing::Waiting => "waiting",
            Standing::Failed(reason) => reason.as_str(),
        };
        let body = match record.body {
            RecordBody::Inline(body) => format!("inline={}", body.len()),
            RecordBody::Apart(bytes) => format!("apart={bytes}"),
        };
        let next = self.time(i64::try_from(record.next_attempt_at.0).unwrap());
        format!("{} {standing} next={next} {body}", self.shown(&record.config.to_string()))
    }

    /// A stream's entries: pages by what they hold, others by their fields; and what is pending for whom.
    fn stream(&mut self, key: &str) -> String {
        type Entry = (String, Vec<(String, Vec<u8>)>);
        let entries: Vec<Entry> =
            redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(&mut self.raw).unwrap();
        let mut texts: Vec<String> = Vec::new();
        for (id, fields) in entries {
            let page = fields.first().map(|(_, value)| value.clone()).unwrap_or_default();
            if let (true, Ok(page)) = (key.contains(":log:"), LogPage::decode(&page)) {
                texts.push(format!("rows={}", page.rows.len()));
            } else if let (true, Ok(page)) = (key.contains(":bodies:"), PayloadPage::decode(&page)) {
                texts.push(format!("payloads={}", page.payloads.len()));
            } else if key.ends_with(":events") {
                texts.push(id);
            } else {
                let shown =
                    fields.iter().map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)));
                texts.push(shown.collect::<Vec<_>>().join(","));
            }
        }
        if key.ends_with(":events") {
            texts.push(self.group(key));
        }
        texts.join(" ")
    }

    /// The consumers, and their pending entries with how often each was given to one.
    fn group(&mut self, key: &str) -> String {
        let consumers: Result<Vec<BTreeMap<String, redis::Value>>, _> =
            redis::cmd("XINFO").arg("CONSUMERS").arg(key).arg("dispatchers").query(&mut self.raw);
        let Ok(consumers) = consumers else { return "no group".into() };
        let mut texts = vec!["group".to_owned()];
        for consumer in consumers {
            let name: String = redis::from_redis_value(consumer["name"].clone()).unwrap();
            let mut command = redis::cmd("XPENDING");
            command.arg(key).arg("dispatchers").arg("-").arg("+").arg(100).arg(&name);
            let pending: Vec<(String, String, u64, u64)> = command.query(&mut self.raw).unwrap();
            let pending: Vec<String> =
                pending.iter().map(|(id, _, _, times)| format!("{id}x{times}")).collect();
            texts.push(format!("{name}[{}]", pending.join(",")));
        }
        texts.join(" ")
    }

    fn shown(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (long, name)| text.replace(long, name))
    }

    fn time(&mut self, ms: i64) -> String {
        if let Some((_, name)) = self.names.iter().find(|(known, _)| *known == ms.to_string()) {
            return name.clone();
        }
        let from_now = ms - self.now();
        if from_now.abs() > 10_000_000 {
            ms.to_string()
        } else {
            format!("~{}s", (from_now as f64 / 100_000.0).round() as i64 * 100)
        }
    }
}

/// The lines of a table, where `{small}` and `{large}` are the weights of records with such bodies.
pub fn lines(table: &[&str]) -> Vec<String> {
    let fill = |line: &&str| {
        let twice = (2 * weight(SMALL)).to_string();
        let line = line.replace("{small}", &weight(SMALL).to_string()).replace("{small2}", &twice);
        line.replace("{large}", &weight(LARGE).to_string())
            .replace("{large2}", &(2 * weight(LARGE)).to_string())
    };
    let mut lines: Vec<String> = table.iter().map(fill).collect();
    lines.sort();
    lines
}
