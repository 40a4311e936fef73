//! What the tests of the attempt log share: an organisation with a server in front of its log, and the rows and
//! records that the walk would write.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use postrider::admin::router;
use postrider::admin::state::AdminState;
use postrider::domain::clock::{Clock, UnixMillis};
use postrider::domain::config::{Config, EndpointUrl, StoredConfig, Subscription};
use postrider::domain::delivery::{
    AttemptSummary, DeliveryRecord, FailReason, LastAttempt, RecordBody, Standing, Tried,
};
use postrider::domain::ids::{
    ConfigId, ConfigSequence, DeliveryId, EventId, OrganisationId, ShardNumber, StreamId,
};
use postrider::domain::log::{LogRow, PageBuilder, PageKey, Status};
use postrider::domain::outcome::Outcome;
use postrider::domain::signature::Secret;
use postrider::domain::token::Role;
use postrider::redis::directory::Directory;
use postrider::redis::keys::ShardKeys;
use postrider::redis::tokens::create_token;
use postrider::settings::Settings;
use redis::Commands;
use serde_json::Value;

use crate::support::TestSpace;

/// 2026-05-01T09:00:00.000Z
pub const T0: u64 = 1_777_626_000_000;
pub const CONFIG_URL: &str = "https://hooks.example.org/now";
pub const ROW_URL: &str = "https://hooks.example.org/then";

/// An organisation with a token, a server, and a plain connection to write its log with.
pub struct World {
    pub state: AdminState,
    pub address: SocketAddr,
    pub raw: redis::Connection,
    pub token: String,
    pages: u8,
}

impl World {
    pub async fn new() -> Self {
        Self::with_shards(1).await
    }

    pub async fn with_shards(shards: u16) -> Self {
        Self::on(TestSpace::new(), shards).await
    }

    pub async fn on(space: TestSpace, shards: u16) -> Self {
        let redis = space.redis();
        let shards: Vec<ShardKeys> = (0..shards).map(|n| redis.keys().shard(ShardNumber(n))).collect();
        let state = AdminState {
            redis,
            shards: shards.into(),
            directory: Arc::new(Directory::new()),
            settings: Arc::new(Settings::default()),
            clock: Arc::new(Clock::default()),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = router(state.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let mut world = Self { state, address, raw: space.raw(), token: String::new(), pages: 0 };
        world.token = world.token_of("org_1", Role::Admin).await;
        world
    }

    pub async fn token_of(&self, organisation: &str, role: Role) -> String {
        let organisation = OrganisationId::new(organisation).unwrap();
        let made = create_token(&self.state.redis, &organisation, role, "test", UnixMillis(T0)).await;
        let text = made.unwrap().0.expose().to_owned();
        self.refresh().await;
        text
    }

    async fn refresh(&self) {
        self.state.directory.read_once(&self.state.redis).await.unwrap();
    }

    pub async fn store(&mut self, stored: &StoredConfig) {
        let json = serde_json::to_string(stored).unwrap();
        let key = self.state.redis.keys().configs();
        let _: () = self.raw.hset(key, stored.id().to_string(), json).unwrap();
        self.refresh().await;
    }

    pub async fn config(&mut self, organisation: &str, sequence: u32) -> ConfigId {
        let id = ConfigId::new([7; 8], ConfigSequence(sequence));
        let config = Config {
            id,
            organisation: OrganisationId::new(organisation).unwrap(),
            version: 1,
            url: EndpointUrl::new(CONFIG_URL, false).unwrap(),
            events: vec![Subscription::new("reward.earned").unwrap()],
            secret: Secret::generate(),
            previous_secret: None,
            client_certificate: None,
            active: true,
            max_retries: 3,
            retry_policy: postrider::domain::retry_policy::RetryPolicy::default(),
            retry_on: postrider::domain::retry_on::RetryOn::NONE,
            rate_limit: None,
            http_method: Default::default(),
            body_format: Default::default(),
            entity_filters: Default::default(),
            standard_webhooks: false,
            log_payloads: true,
            headers: Default::default(),
            created_at: UnixMillis(T0),
            updated_at: UnixMillis(T0),
            disabled: None,
        };
        self.store(&StoredConfig::Config(config)).await;
        id
    }

    pub fn keys(&self, shard: u16) -> ShardKeys {
        self.state.redis.keys().shard(ShardNumber(shard))
    }

    /// Writes a page at `T0 + ms`, its payloads just before it.
    pub fn page_in(&mut self, shard: u16, config: ConfigId, ms: u64, rows: &[(LogRow, Option<&[u8]>)]) {
        self.pages = self.pages.wrapping_add(1);
        let mut page = PageBuilder::new(PageKey([self.pages; 8]));
        for (row, payload) in rows {
            page.push(row, *payload);
        }
        let page = page.finish().unwrap();
        let (keys, id) = (self.keys(shard), format!("{}-*", T0 + ms));
        if let Some(payloads) = page.payloads {
            let _: String = self.raw.xadd(keys.bodies(config), &id, &[("p", payloads)]).unwrap();
        }
        let _: String = self.raw.xadd(keys.log(config), &id, &[("p", page.log)]).unwrap();
    }

    pub fn page(&mut self, config: ConfigId, ms: u64, rows: &[LogRow]) {
        let rows: Vec<_> = rows.iter().map(|row| (row.clone(), None)).collect();
        self.page_in(0, config, ms, &rows);
    }

    pub fn record(&mut self, id: DeliveryId, record: &DeliveryRecord) {
        let keys = self.keys(id.event().shard().0);
        let set = match record.standing {
            Standing::Waiting => keys.queue(record.config),
            Standing::Failed(_) => keys.failed(record.config),
        };
        let _: () = self.raw.zadd(set, id.to_string(), record.next_attempt_at.0).unwrap();
        let _: () = self.raw.set(keys.delivery(id), record.encode()).unwrap();
    }

    pub async fn get_as(&self, token: &str, path: &str) -> (u16, Value) {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        // Routes beside the log's are written relative to it.
        let path = path.strip_prefix("/../").map_or_else(|| format!("logs{path}"), str::to_owned);
        let request = http::Request::get(format!("/api/v2/admin/webhooks/{path}"))
            .header("host", "localhost")
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.get_as(&self.token, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub async fn ids(&self, query: &str) -> Vec<String> {
        ids_of(&self.get(query).await)
    }
}

/// The deliveries of a page, in its order.
pub fn ids_of(page: &Value) -> Vec<String> {
    let edges = page["edges"].as_array().unwrap();
    edges.iter().map(|edge| edge["deliveryId"].as_str().unwrap().to_owned()).collect()
}

pub fn delivery_in(shard: u16, config: ConfigId, number: u64) -> DeliveryId {
    let event = StreamId { ms: T0 + number, seq: 0 };
    EventId::new(ShardNumber(shard), event).unwrap().delivery(config.sequence())
}

pub fn delivery(config: ConfigId, number: u64) -> DeliveryId {
    delivery_in(0, config, number)
}

/// Attempt `attempt` at `T0 + ms`, answered as its status suggests.
pub fn row(delivery: DeliveryId, status: Status, attempt: u32, ms: u64) -> LogRow {
    let (response, excerpt) = match status {
        Status::Delivered => (Some(200), "ok"),
        Status::Retrying => (Some(503), "upstream busy"),
        Status::Failed => (Some(404), "no such hook"),
        Status::Pending => (None, ""),
    };
    LogRow {
        delivery,
        event_type: "reward.earned".into(),
        url: if status == Status::Pending { "".into() } else { ROW_URL.into() },
        status,
        attempt,
        at: UnixMillis(T0 + ms),
        created_at: UnixMillis(delivery.event().stream_id().ms),
        next_attempt_at: None,
        response_status: response,
        excerpt: Bytes::from_static(excerpt.as_bytes()),
        error: None,
        reason: (status == Status::Failed).then_some(FailReason::Refused),
        took_ms: 12,
        history: Vec::new(),
        trace: None,
    }
}

pub fn waiting(config: ConfigId, delivery: DeliveryId, attempts: u32, last_ms: u64) -> DeliveryRecord {
    let history = (1..=attempts)
        .map(|attempt| AttemptSummary {
            attempt,
            at: UnixMillis(T0 + last_ms),
            took_ms: 12,
            status: Some(503),
            outcome: Outcome::Retryable,
        })
        .collect();
    let last = (attempts > 0).then(|| LastAttempt {
        at: UnixMillis(T0 + last_ms),
        url: ROW_URL.into(),
        status: Some(503),
        excerpt: Bytes::from_static(b"upstream busy"),
        error: None,
    });
    DeliveryRecord {
        standing: Standing::Waiting,
        config,
        created_at: UnixMillis(delivery.event().stream_id().ms),
        next_attempt_at: UnixMillis(T0 + last_ms + 12_000),
        event_type: "reward.earned".into(),
        traceparent: None,
        tried: Tried { attempts, by_hand: 0, last, history },
        body: RecordBody::Inline(Bytes::from_static(br#"{"event":"reward.earned"}"#)),
    }
}

pub fn failed(config: ConfigId, delivery: DeliveryId, attempts: u32, last_ms: u64) -> DeliveryRecord {
    let standing = Standing::Failed(FailReason::Exhausted);
    DeliveryRecord { standing, ..waiting(config, delivery, attempts, last_ms) }
}

pub fn texts(ids: &[DeliveryId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// One delivery of each kind; gives their ids, newest first: delivered, retrying, pending, failed, and failed
/// with its record evicted.
pub async fn one_of_each(world: &mut World) -> (ConfigId, [DeliveryId; 5]) {
    let config = world.config("org_1", 1).await;
    let [evicted, dead, parked, trying, done, lost] = [1, 2, 3, 4, 5, 6].map(|n| delivery(config, n));
    world.page(config, 100, &[row(evicted, Status::Failed, 1, 90)]);
    world.page(config, 200, &[row(dead, Status::Retrying, 1, 150), row(dead, Status::Failed, 2, 190)]);
    world.record(dead, &failed(config, dead, 2, 190));
    world.page(config, 300, &[row(parked, Status::Pending, 0, 300)]);
    world.record(parked, &waiting(config, parked, 0, 0));
    world.page(config, 400, &[row(trying, Status::Retrying, 1, 390), row(lost, Status::Retrying, 1, 391)]);
    world.record(trying, &waiting(config, trying, 1, 390));
    world.page(config, 500, &[row(done, Status::Delivered, 1, 490)]);
    (config, [done, trying, parked, dead, evicted])
}
