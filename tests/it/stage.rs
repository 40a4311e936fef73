//! What a test of the whole walk plays on: a keyspace, a receiver, a server, a token; and the words to set up
//! configs, add events as a producer would, and look at what became of them.

use std::cell::RefCell;
use std::time::Duration;

use postrider::domain::ids::ShardNumber;
use postrider::redis::keys::{GROUP, Keys, ShardKeys};
use serde_json::{Value, json};

use crate::arrivals::{Arrival, Arrivals, READY_EVENT, Reply};
use crate::serving::{ORGANISATION, Serve, create_token};
use crate::support::{wait_for, wait_within};

/// The event type of the tests.
pub(crate) const EVENT: &str = "reward.earned";

/// A server on a keyspace of its own, with a receiver.
pub(crate) struct Stage {
    /// Where the server finds Redis.
    serve_url: String,
    /// Where the test finds it.
    pub(crate) url: String,
    pub(crate) namespace: String,
    pub(crate) arrivals: Arrivals,
    pub(crate) token: String,
    serve: Option<Serve>,
    pub(crate) keys: ShardKeys,
    raw: RefCell<redis::Connection>,
}

/// A config as put, and what the receiver knows of it.
pub(crate) struct Put {
    pub(crate) id: String,
    pub(crate) path: String,
}

// === impl Stage ===

impl Stage {
    /// Starts a server with `extra` arguments on the keyspace `namespace` of the Redis at `url`.
    pub(crate) fn on(url: &str, namespace: &str, extra: &[&str]) -> Self {
        Self::through(url, url, namespace, extra)
    }

    /// As [`Stage::on`]; the server reaches the same Redis at `serve_url`.
    pub(crate) fn through(serve_url: &str, url: &str, namespace: &str, extra: &[&str]) -> Self {
        Self::with(Serve::start(serve_url, namespace, extra), serve_url, url, namespace)
    }

    /// A stage around a server that runs.
    pub(crate) fn with(serve: Serve, serve_url: &str, url: &str, namespace: &str) -> Self {
        let keys = Keys::new(namespace).expect("a namespace").shard(ShardNumber(0));
        Self {
            serve_url: serve_url.to_owned(),
            url: url.to_owned(),
            namespace: namespace.to_owned(),
            arrivals: Arrivals::start(),
            token: create_token(url, namespace),
            serve: Some(serve),
            keys,
            raw: RefCell::new(connect(url)),
        }
    }

    /// The running server.
    pub(crate) fn serve(&self) -> &Serve {
        self.serve.as_ref().expect("the server runs")
    }

    /// Takes the server, to end it.
    pub(crate) fn take_serve(&mut self) -> Serve {
        self.serve.take().expect("the server runs")
    }

    /// Starts another server on the same keyspace, after the first was taken.
    pub(crate) fn start_serve(&mut self, extra: &[&str]) {
        assert!(self.serve.is_none(), "the first server was taken");
        self.serve = Some(Serve::start(&self.serve_url, &self.namespace, extra));
    }

    /// Goes over to another Redis with the same keyspace, and starts a server there.
    pub(crate) fn move_to(&mut self, url: &str, extra: &[&str]) {
        (self.serve_url, self.url) = (url.to_owned(), url.to_owned());
        self.reconnect();
        self.start_serve(extra);
    }

    /// Connects anew, after Redis was restarted.
    pub(crate) fn reconnect(&self) {
        self.raw.replace(connect(&self.url));
    }

    /// A command, as a stranger would send it.
    pub(crate) fn redis<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.raw.borrow_mut()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Puts a config for [`EVENT`] at `path` with `more` fields and waits until it is in effect.
    pub(crate) fn config(
        &self,
        path: &str,
        more: Value,
        behaviour: impl Fn(&Arrival) -> Reply + Send + Sync + 'static,
    ) -> Put {
        let secret = format!("whsec_of_{path}");
        let url = self.arrivals.endpoint(path, &secret, behaviour);
        let mut config = json!({ "url": url, "events": [EVENT, READY_EVENT], "secret": secret });
        for (name, value) in more.as_object().expect("fields") {
            config[name] = value.clone();
        }
        let answer = self.serve().put(&self.token, "/configs", &config);
        let id = answer["id"].as_str().expect("the config's id").to_owned();
        let put = Put { id, path: path.to_owned() };
        self.wait_in_effect(&put.path);
        put
    }

    /// Changes fields of a config. In effect once a config put after it is.
    pub(crate) fn change(&self, id: &str, fields: Value) -> Value {
        let all = self.serve().get(&self.token, "/configs");
        let mine = all.as_array().expect("an array").iter().find(|config| config["id"] == id);
        let mine = mine.expect("the config");
        let mut config = json!({ "id": id, "url": mine["url"], "events": mine["events"] });
        for (name, value) in fields.as_object().expect("fields") {
            config[name] = value.clone();
        }
        self.serve().put(&self.token, "/configs", &config)
    }

    /// Sends events of another type until one arrives: the only proof that a worker follows the config.
    fn wait_in_effect(&self, path: &str) {
        self.arrivals.forget_ready(path);
        let mut looks = 0_u32;
        wait_for("the config to be in effect", || {
            if looks.is_multiple_of(10) {
                self.add(&[("event", READY_EVENT)]);
            }
            looks += 1;
            self.arrivals.is_ready(path)
        });
        self.wait_acked();
    }

    /// `XADD`s an event of [`EVENT`] with `more` fields, which come last and so win; gives its stream id.
    pub(crate) fn add(&self, more: &[(&str, &str)]) -> String {
        let fields: Vec<(&str, &str)> =
            [("organisationId", ORGANISATION), ("event", EVENT), ("data", r#"{"user":{"id":"u1"}}"#)]
                .into_iter()
                .filter(|(name, _)| !more.iter().any(|(other, _)| other == name))
                .chain(more.iter().copied())
                .collect();
        self.add_raw("*", &fields)
    }

    /// `XADD`s exactly these fields under `id`.
    pub(crate) fn add_raw(&self, id: &str, fields: &[(&str, &str)]) -> String {
        let events = self.keys.events();
        let mut words = vec!["XADD", events.as_str(), id];
        words.extend(fields.iter().flat_map(|(name, value)| [*name, *value]));
        self.redis(&words)
    }

    /// Adds `count` events with the nonces `n-0`, `n-1`, ... in pipelines.
    pub(crate) fn add_many(&self, count: usize) {
        self.add_some(0..count);
    }

    /// Adds the events with these numbers.
    pub(crate) fn add_some(&self, numbers: std::ops::Range<usize>) {
        let events = self.keys.events();
        let numbers: Vec<usize> = numbers.collect();
        for chunk in numbers.chunks(500) {
            let mut pipeline = redis::pipe();
            for number in chunk {
                pipeline
                    .cmd("XADD")
                    .arg(&events)
                    .arg("*")
                    .arg(&[("organisationId", ORGANISATION), ("event", EVENT), ("data", r#"{"n":1}"#)])
                    .arg(&[("nonce", format!("n-{number}"))])
                    .ignore();
            }
            pipeline.query::<()>(&mut *self.raw.borrow_mut()).expect("XADD");
        }
    }

    /// Entries that were read and not acknowledged.
    pub(crate) fn pending(&self) -> usize {
        let summary: Vec<redis::Value> = self.redis(&["XPENDING", &self.keys.events(), GROUP]);
        redis::from_redis_value_ref(&summary[0]).expect("a count")
    }

    /// Entries that no worker has read yet.
    pub(crate) fn unread(&self) -> usize {
        let groups: Vec<std::collections::HashMap<String, redis::Value>> =
            self.redis(&["XINFO", "GROUPS", &self.keys.events()]);
        let last = &groups[0]["last-delivered-id"];
        let last: String = redis::from_redis_value_ref(last).expect("an id");
        let after: Vec<redis::Value> =
            self.redis(&["XRANGE", &self.keys.events(), &format!("({last}"), "+", "COUNT", "1"]);
        after.len()
    }

    /// Waits until every entry was read and acknowledged.
    pub(crate) fn wait_acked(&self) {
        self.wait_acked_within(Duration::from_secs(30));
    }

    pub(crate) fn wait_acked_within(&self, limit: Duration) {
        wait_within(limit, "every entry to be acknowledged", || self.unread() == 0 && self.pending() == 0);
    }

    /// Log records of [`EVENT`] that match `query` (`&name=value...`).
    pub(crate) fn logs(&self, query: &str) -> Vec<Value> {
        let path = format!("/logs?event={EVENT}&limit=100{query}");
        let answer = self.serve().get(&self.token, &path);
        answer["edges"].as_array().expect("edges").clone()
    }

    /// How many deliveries of the config have `status`, as the log counts them; never a floor here.
    pub(crate) fn log_count(&self, config: &Put, status: &str) -> u64 {
        let path = format!("/logs?event={EVENT}&limit=1&webhookConfigId={}&status={status}", config.id);
        let answer = self.serve().get(&self.token, &path);
        assert_eq!(answer["totalCountIsFloor"], false, "{answer}");
        answer["totalCount"].as_u64().expect("a count")
    }

    /// Waits until the config's log has `count` records with `status`, and gives them.
    pub(crate) fn wait_logged(&self, config: &Put, status: &str, count: usize) -> Vec<Value> {
        let query = format!("&webhookConfigId={}&status={status}", config.id);
        let mut records = Vec::new();
        wait_for(&format!("{count} {status} records"), || {
            records = self.logs(&query);
            records.len() >= count
        });
        assert_eq!(records.len(), count, "{records:?}");
        records
    }

    /// Everything about one delivery.
    pub(crate) fn delivery(&self, id: &Value) -> Value {
        self.serve().get(&self.token, &format!("/logs/{}", id.as_str().expect("a delivery id")))
    }

    /// Waits until `count` requests have arrived at the config's endpoint, and gives them all.
    pub(crate) fn wait_arrived(&self, config: &Put, count: usize) -> Vec<Arrival> {
        wait_for(&format!("{count} requests at {}", config.path), || {
            self.arrivals.at(&config.path).len() >= count
        });
        self.arrivals.at(&config.path)
    }
}

fn connect(url: &str) -> redis::Connection {
    redis::Client::open(url).expect("a url").get_connection().expect("a connection")
}
