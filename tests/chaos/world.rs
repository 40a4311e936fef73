//! What a scenario plays on: a Redis, endpoints with their configs, replicas, a publisher, the ledger; and the end,
//! where everything has to come to rest before the judge looks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::domain::delivery::FailReason;
use postrider::domain::ids::{ConfigId, ShardNumber, StreamId};
use postrider::domain::signature::{Secret, SigningKey};
use postrider::redis::keys::{Keys, ShardKeys};
use serde_json::{Value, json};

use crate::admin;
use crate::judge::{Expected, Verdict, judge, remains};
use crate::ledger::Ledger;
use crate::process::{Launch, Redis, Replica, wait};
use crate::publisher::{EVENT, Plan, Publisher};
use crate::receivers::{Act, Asked, Receivers};

/// Longest time in which everything must come to rest after the last fault.
const REST_LIMIT: Duration = Duration::from_secs(120);

/// Everything that a scenario has.
pub(crate) struct World {
    pub(crate) redis: Redis,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) receivers: Receivers,
    pub(crate) keys: ShardKeys,
    pub(crate) token: String,
    pub(crate) replicas: Vec<Replica>,
    /// How further replicas are started.
    pub(crate) launch: Launch,
    pub(crate) endpoints: Vec<Expected>,
    /// For each loss of Redis's own: the last id that it kept, and how many events were published before.
    pub(crate) kept: Vec<(StreamId, usize)>,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) directory: PathBuf,
    started: usize,
    _temporary: Option<tempfile::TempDir>,
}

/// The key that endpoint `number` signs with in generation `generation`.
pub(crate) fn secret(number: usize, generation: usize) -> String {
    format!("whsec_chaos_{number}_{generation}")
}

pub(crate) fn key(secret: &str) -> SigningKey {
    Secret::new(secret).expect("an acceptable secret").signing_key()
}

// === impl World ===

impl World {
    /// A Redis with `redis_extra` arguments, and `count` endpoints that answer 200 at once and have configs for
    /// [`EVENT`]. No replica runs.
    pub(crate) fn new(count: usize, redis_extra: &[&str]) -> Self {
        let temporary = tempfile::tempdir().expect("a directory");
        let kept = std::env::var_os("CHAOS_KEEP").is_some();
        let directory = temporary.path().to_path_buf();
        let temporary = if kept {
            eprintln!("kept: {}", temporary.keep().display());
            None
        } else {
            Some(temporary)
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let ledger = Arc::new(Ledger::default());
        let receivers = Receivers::start(&runtime, &ledger);
        let redis = Redis::start(directory.clone(), redis_extra);
        let launch = Launch { redis_url: redis.url(), ..Launch::default() };
        let keys = Keys::new("chaos").expect("a namespace").shard(ShardNumber(0));
        let mut world = Self {
            redis,
            ledger,
            receivers,
            keys,
            token: String::new(),
            replicas: Vec::new(),
            launch,
            endpoints: Vec::new(),
            kept: Vec::new(),
            runtime,
            directory,
            started: 0,
            _temporary: temporary,
        };
        world.put_endpoints(count);
        // Without the breaker: endpoints that fail by the dozen are here to make retries.
        let retries = ["--retry-schedule", "200ms,500ms,1s", "--breaker-failures", "0"];
        world.serve_with(["--lease", "2s", "--request-timeout", "3s"]);
        world.launch.extra.extend(retries.map(str::to_owned));
        world
    }

    /// Puts the configs through a replica that is ended again: the ones that start later know them from the start.
    fn put_endpoints(&mut self, count: usize) {
        let first = Replica::start(&self.directory, 0, &self.launch);
        first.wait_ready();
        self.token = admin::create_token(&self.redis.url());
        let configs: Vec<Value> = (0..count)
            .map(|number| {
                let url = format!("http://127.0.0.1:{}/{number}", self.receivers.port);
                json!({ "url": url, "events": [EVENT], "secret": secret(number, 0), "maxRetries": 10 })
            })
            .collect();
        wait(Duration::from_secs(10), "the token to be known", || {
            admin::get_configs_status(first.admin_port, &self.token) == 200
        });
        let answer = admin::put_configs(first.admin_port, &self.token, &Value::Array(configs));
        for (number, config) in answer.as_array().expect("an array").iter().enumerate() {
            let config: ConfigId = config["id"].as_str().expect("an id").parse().expect("an id");
            self.endpoints.push(Expected { config, may_fail: Vec::new() });
            self.behave(number, |_| Act::Answer(200, Duration::ZERO));
        }
        first.terminate(Duration::from_secs(30));
    }

    /// Further replicas are started with these arguments of `serve`.
    pub(crate) fn serve_with<const N: usize>(&mut self, extra: [&str; N]) {
        self.launch.extra = extra.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Says how an endpoint answers from now on.
    pub(crate) fn behave(&self, number: usize, behaviour: impl Fn(Asked) -> Act + Send + Sync + 'static) {
        self.receivers.endpoint(number, vec![key(&secret(number, 0))], behaviour);
    }

    /// Says for which reasons deliveries to an endpoint may end as failed.
    pub(crate) fn may_fail(&mut self, number: usize, reasons: &[FailReason]) {
        self.endpoints[number].may_fail = reasons.to_vec();
    }

    /// Starts a replica that is not waited for.
    pub(crate) fn launch(&mut self) -> Replica {
        self.started += 1;
        Replica::start(&self.directory, self.started, &self.launch)
    }

    /// Starts `count` replicas and waits until they are ready.
    pub(crate) fn start_replicas(&mut self, count: usize) {
        for _ in 0..count {
            let replica = self.launch();
            self.replicas.push(replica);
        }
        self.replicas.iter().for_each(Replica::wait_ready);
    }

    /// What to publish at `rate` until it is stopped.
    pub(crate) fn plan(&self, rate: usize) -> Plan {
        Plan {
            url: self.redis.url(),
            stream: self.keys.events(),
            rate,
            count: usize::MAX,
            padding: 200,
            refusals_max: usize::MAX,
        }
    }

    pub(crate) fn publish(&self, plan: Plan) -> Publisher {
        Publisher::start(plan, Arc::clone(&self.ledger))
    }

    /// A connection of the scenario's own.
    pub(crate) fn raw(&self) -> redis::Connection {
        redis::Client::open(self.redis.url()).expect("a url").get_connection().expect("a connection")
    }

    /// Waits until so many events have been acknowledged by Redis.
    pub(crate) fn wait_published(&self, count: usize) {
        wait(Duration::from_secs(60), "events to be published", || self.ledger.book().published().0 >= count);
    }

    /// Waits until `more` further requests have arrived: deliveries go on.
    pub(crate) fn wait_arrivals(&self, more: usize) {
        let from = self.ledger.book().arrivals.len();
        wait(Duration::from_secs(60), "deliveries to go on", || {
            self.ledger.book().arrivals.len() >= from + more
        });
    }

    /// Waits until everything has come to rest, and judges. How long that took is told too.
    pub(crate) fn rest(&self) -> (Verdict, Duration) {
        let began = Instant::now();
        let configs: Vec<ConfigId> = self.endpoints.iter().map(|endpoint| endpoint.config).collect();
        let mut connection = self.raw();
        let last = loop {
            let now = remains(&mut connection, &self.keys, &configs).expect("Redis answers at the end");
            let at_rest = now.pending + now.unread + now.due + now.queued == 0;
            if at_rest || began.elapsed() > REST_LIMIT {
                break now;
            }
            crate::process::pass(Duration::from_millis(200));
        };
        let took = began.elapsed();
        let verdict = judge(&self.ledger.book(), &self.endpoints, &last, &self.kept);
        (verdict, took)
    }
}
