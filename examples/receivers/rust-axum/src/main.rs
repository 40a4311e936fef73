//! Receives Postrider's webhooks: verifies, answers, and works afterwards. ../README.md says why in this order.

use std::env;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use hmac::{Hmac, KeyInit, Mac};
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Direction, RedisResult};
use serde::Deserialize;
use sha2::Sha256;

const SEEN_SECONDS: u64 = 24 * 60 * 60;
const QUEUE_MAX: u64 = 10_000;
const BODY_MAX: usize = 1 << 20;

#[derive(Deserialize)]
struct Event {
    nonce: String,
}

#[derive(Clone)]
struct Receiver {
    secret: String,
    redis: ConnectionManager,
}

impl Receiver {
    fn is_genuine(&self, body: &[u8], headers: &HeaderMap) -> bool {
        ["x-nudj-signature", "x-nudj-signature-previous"].iter().any(|name| {
            let given = headers.get(*name).and_then(|value| value.to_str().ok()?.strip_prefix("sha256="));
            let Some(given) = given.and_then(from_hex) else { return false };
            let Ok(mac) = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()) else { return false };
            mac.chain_update(body).verify_slice(&given).is_ok()
        })
    }

    /// Puts the body into the queue, unless it was processed before or the queue is full.
    async fn accept(mut self, nonce: &str, body: &[u8]) -> RedisResult<StatusCode> {
        let mut reads = redis::pipe();
        reads.exists(format!("hooks:seen:{nonce}")).llen("hooks:queue");
        let (seen, waiting): (bool, u64) = reads.query_async(&mut self.redis).await?;
        if seen {
            return Ok(StatusCode::OK);
        }
        if waiting >= QUEUE_MAX {
            return Ok(StatusCode::SERVICE_UNAVAILABLE);
        }
        let mut push = redis::cmd("LPUSH");
        let _: u64 = push.arg("hooks:queue").arg(body).query_async(&mut self.redis).await?;
        Ok(StatusCode::ACCEPTED)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if !receiver.is_genuine(&body, &headers) {
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(event) = serde_json::from_slice::<Event>(&body) else { return StatusCode::BAD_REQUEST };
    receiver.accept(&event.nonce, &body).await.unwrap_or_else(|error| {
        eprintln!("redis: {error}");
        StatusCode::SERVICE_UNAVAILABLE
    })
}

async fn process_event(event: &Event) -> Result<(), Box<dyn Error + Send + Sync>> {
    println!("processed {}", event.nonce); // Your work.
    Ok(())
}

async fn work_one(redis: &mut MultiplexedConnection) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut take = redis::cmd("BLMOVE");
    take.arg("hooks:queue").arg("hooks:working").arg("RIGHT").arg("LEFT").arg(1);
    let Some(body): Option<Vec<u8>> = take.query_async(redis).await? else { return Ok(()) };
    let event: Event = serde_json::from_slice(&body)?;
    let seen = format!("hooks:seen:{}", event.nonce);
    let mut done = redis::pipe();
    done.atomic().lrem("hooks:working", 1, &body).ignore();
    if !redis::cmd("EXISTS").arg(&seen).query_async::<bool>(redis).await? {
        match process_event(&event).await {
            Ok(()) => done.set_ex(&seen, 1, SEEN_SECONDS).ignore(),
            Err(error) => {
                eprintln!("failed {}: {error}", event.nonce);
                done.lpush("hooks:failed", &body).ignore()
            }
        };
    }
    Ok(done.query_async(redis).await?)
}

/// Ends at an error of Redis only.
async fn work(client: &redis::Client) -> Result<(), Box<dyn Error + Send + Sync>> {
    // BLMOVE answers when there is something, or after its second.
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
    let mut redis = client.get_multiplexed_async_connection_with_config(&patient).await?;
    let mut put_back = redis::pipe();
    put_back.lmove("hooks:working", "hooks:queue", Direction::Left, Direction::Right);
    // What a crash left behind.
    while let (Some(_),) = put_back.query_async::<(Option<Vec<u8>>,)>(&mut redis).await? {}
    loop {
        work_one(&mut redis).await?;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let secret = env::var("WEBHOOK_SECRET").map_err(|_| "WEBHOOK_SECRET is not set")?;
    let url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let port: u16 = env::var("PORT").map_or(Ok(9000), |port| port.parse())?;
    let client = redis::Client::open(url)?;
    // A request must be answered soon, so its commands fail soon.
    let hasty = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(Duration::from_secs(2)));
    let redis = client.get_connection_manager_with_config(hasty).await?;
    tokio::spawn(async move {
        loop {
            if let Err(error) = work(&client).await {
                eprintln!("worker: {error}");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let hooks = post(receive).layer(DefaultBodyLimit::max(BODY_MAX));
    let app = Router::new().route("/hooks", hooks).with_state(Receiver { secret, redis });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    Ok(axum::serve(listener, app).await?)
}
