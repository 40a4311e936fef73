//! The network between `postrider serve` and Redis breaks while Redis lives: what Redis had done and could not
//! say, or was told in half. Nothing may be lost, and nothing needs a restart.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::arrivals::Reply;
use crate::proxy::{Deed, Proxy, Way};
use crate::serving::Serve;
use crate::stage::Stage;
use crate::support::{TestSpace, shared_redis, wait_for, wait_within};

const LIMIT: Duration = Duration::from_secs(120);

/// A server whose way to Redis leads through a proxy; the test itself looks at Redis directly.
fn stage_behind_proxy(extra: &[&str]) -> (Stage, Proxy) {
    let space = TestSpace::new();
    let proxy = Proxy::before(shared_redis().port);
    let url = format!("redis://127.0.0.1:{}/0", proxy.port());
    (Stage::through(&url, &space.url, &space.namespace, extra), proxy)
}

/// The process that began is the one that ended: it helped itself.
fn assert_same(serve: &Serve, pid: u32) {
    assert_eq!(serve.pid(), pid);
    wait_for("readiness", || serve.is_ready());
}

#[test]
fn entries_whose_reply_was_lost_are_recovered_once_redis_can_be_reached() {
    let (stage, proxy) = stage_behind_proxy(&[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    let pid = stage.serve().pid();
    let before = (proxy.counts(), stage.serve().metric("events_recovered_total"));

    // A reply that names the stream is one that carries entries of it. Nothing passes afterwards, so that what
    // Redis holds can be looked at before anybody recovers it.
    let (events, close) = (stage.keys.events(), proxy.closer());
    proxy.fault(move |chunk| {
        if chunk.way == Way::Reply && chunk.has(&events) {
            close();
            return Deed::CutAfter(0);
        }
        Deed::Pass
    });
    stage.add_many(50);
    wait_for("the reply to be lost", || proxy.counts().cuts > before.0.cuts);
    assert!(proxy.counts().swallowed > before.0.swallowed);
    let assigned = stage.pending();
    assert!((1..=50).contains(&assigned), "{assigned} entries are assigned to a consumer that does not know");
    assert!(stage.arrivals.at(&config.path).is_empty());

    proxy.heal();
    assert_eq!(stage.wait_arrived(&config, 50).len(), 50);
    stage.wait_acked();
    assert_same(stage.serve(), pid);
    let recovered = stage.serve().metric("events_recovered_total") - before.1;
    assert!(recovered >= assigned as f64, "{recovered} of {assigned} were recovered");
    let tally = stage.arrivals.tally();
    assert_eq!((tally.requests, tally.nonces, tally.unverified), (50, 50, 0), "each exactly once");
}

#[test]
fn replies_that_are_lost_again_and_again_under_load_cost_no_event() {
    const EVENTS: usize = 3_000;
    const LOSSES: u32 = 10;
    let (stage, proxy) = stage_behind_proxy(&[]);
    stage.config("/a", json!({}), |_| Reply::ok());
    let pid = stage.serve().pid();
    let before = proxy.counts();

    // Every second reply with entries is lost, each at another byte.
    let (events, seen) = (stage.keys.events(), AtomicU32::new(0));
    proxy.fault(move |chunk| {
        if chunk.way == Way::Request || !chunk.has(&events) {
            return Deed::Pass;
        }
        let number = seen.fetch_add(1, Ordering::Relaxed);
        if number % 2 == 0 && number / 2 < LOSSES {
            return Deed::CutAfter(chunk.bytes.len() * (number / 2) as usize / LOSSES as usize);
        }
        Deed::Pass
    });
    // Each hundred needs one reply at least.
    for first in (0..EVENTS).step_by(100) {
        stage.add_some(first..first + 100);
        wait_for("the hundred to be read", || stage.unread() == 0);
    }
    assert_eq!(proxy.counts().cuts - before.cuts, u64::from(LOSSES));
    wait_within(LIMIT, "every event to arrive", || stage.arrivals.tally().nonces == EVENTS);
    stage.wait_acked_within(LIMIT);
    assert_same(stage.serve(), pid);
    assert!(proxy.counts().swallowed > before.swallowed);
    assert!(stage.serve().metric("events_recovered_total") > 0.0);
    let tally = stage.arrivals.tally();
    assert_eq!(
        (tally.requests, tally.unverified),
        (EVENTS, 0),
        "what was never read was never sent: {tally:?}"
    );
}

/// Where flushes are cut: the direction, the byte, and the chunk's length.
type Cuts = Arc<Mutex<Vec<(Way, usize, usize)>>>;

/// Cuts one flush at a random byte each time when it is told a direction: the flush itself, or the first reply
/// to one. A request that names the config's log is a flush.
struct FlushCutter<'a> {
    proxy: &'a Proxy,
    wanted: Arc<Mutex<Option<Way>>>,
    cuts: Cuts,
}

impl<'a> FlushCutter<'a> {
    fn new(proxy: &'a Proxy, log: String) -> Self {
        let (wanted, cuts) = (Arc::<Mutex<Option<Way>>>::default(), Cuts::default());
        let (want, done, awaited) = (Arc::clone(&wanted), Arc::clone(&cuts), Mutex::new(HashSet::new()));
        proxy.fault(move |chunk| {
            let mut want = want.lock().expect("what is wanted");
            let mut awaited = awaited.lock().expect("the connections");
            let flush = match chunk.way {
                Way::Request => chunk.has(&log),
                Way::Reply => awaited.remove(&chunk.connection),
            };
            if flush && chunk.way == Way::Request {
                awaited.insert(chunk.connection);
            }
            if !flush || *want != Some(chunk.way) {
                return Deed::Pass;
            }
            *want = None;
            let at = rand::random_range(0..chunk.bytes.len());
            done.lock().expect("the cuts").push((chunk.way, at, chunk.bytes.len()));
            Deed::CutAfter(at)
        });
        Self { proxy, wanted, cuts }
    }

    /// Cuts the next flush; `meanwhile` makes sure that there is one.
    fn cut(&self, way: Way, meanwhile: impl FnOnce()) {
        let before = self.proxy.counts();
        *self.wanted.lock().expect("what is wanted") = Some(way);
        meanwhile();
        wait_for("a flush to be cut", || self.proxy.counts().cuts > before.cuts);
        assert!(self.proxy.counts().swallowed > before.swallowed);
    }
}

/// Half of the events fail once, so that flushes hold plain log pages and scripts; then the retries' flushes.
#[test]
fn a_settle_flush_cut_at_any_byte_is_repeated_and_changes_nothing_twice() {
    const ROUNDS: usize = 16;
    const A_ROUND: usize = 100;
    const EVENTS: usize = ROUNDS * A_ROUND;
    // A retry comes well after the repetition of the flush that scheduled it. A claim whose reply is lost with
    // the connection is free again after the request's deadline and ten seconds.
    let (stage, proxy) = stage_behind_proxy(&["--retry-schedule", "4s", "--request-timeout", "1s"]);
    let config = stage.config("/a", json!({}), |arrival| {
        let odd = arrival.nonce.ends_with(['1', '3', '5', '7', '9']);
        Reply::status(if odd && arrival.nth == 1 { 503 } else { 200 })
    });
    let pid = stage.serve().pid();
    let cutter = FlushCutter::new(&proxy, stage.keys.log(config.id.parse().expect("a config id")));
    for round in 0..ROUNDS {
        let way = if round % 2 == 0 { Way::Request } else { Way::Reply };
        cutter.cut(way, || stage.add_some(round * A_ROUND..(round + 1) * A_ROUND));
        stage.wait_acked();
    }
    cutter.cut(Way::Request, || {});
    cutter.cut(Way::Reply, || {});
    println!("cuts (way, byte, of): {:?}", cutter.cuts.lock().expect("the cuts"));
    wait_within(LIMIT, "every retry", || stage.arrivals.tally().requests >= EVENTS + EVENTS / 2);
    wait_within(LIMIT, "the queue to be empty", || stage.redis::<usize>(&["ZCARD", &stage.keys.due()]) == 0);
    assert_same(stage.serve(), pid);

    let tally = stage.arrivals.tally();
    assert_eq!((tally.nonces, tally.deliveries, tally.unverified), (EVENTS, EVENTS, 0));
    assert_eq!(tally.requests, EVENTS + EVENTS / 2, "no attempt is made twice: {tally:?}");
    let count = |status: &str| stage.log_count(&config, status);
    assert_eq!((count("delivered"), count("failed"), count("retrying")), (EVENTS as u64, 0, 0));
    assert_eq!(stage.pending(), 0);
}
