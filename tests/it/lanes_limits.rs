//! Limits of a config over all replicas: what a receiver can count.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::arrivals::{Arrival, Reply};
use crate::serving::Serve;
use crate::stage::{Put, Stage};
use crate::support::{TestSpace, wait_for, wait_within};

/// A stage with `replicas` replicas that know of each other.
fn stage(replicas: usize, extra: &[&str]) -> (Stage, Vec<Serve>) {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, extra);
    let others: Vec<Serve> =
        (1..replicas).map(|_| Serve::start(&space.url, &space.namespace, extra)).collect();
    wait_for("every replica to know of the others", || {
        let know = |serve: &Serve| serve.metric("live_replicas") as usize == replicas;
        replicas == 1 || (know(stage.serve()) && others.iter().all(know))
    });
    (stage, others)
}

fn most_at_once(arrivals: &[Arrival]) -> usize {
    arrivals.iter().map(|arrival| arrival.at_once).max().unwrap_or(0)
}

/// Adds `count` events and gives what has arrived once all of them have, each once.
fn add_and_wait(stage: &Stage, config: &Put, count: usize) -> Vec<Arrival> {
    stage.add_many(count);
    wait_within(Duration::from_secs(60), "every event to arrive", || {
        stage.arrivals.tally().deliveries == count
    });
    let arrivals = stage.arrivals.at(&config.path);
    assert_eq!(arrivals.len(), count, "once each");
    arrivals
}

#[test]
fn no_more_requests_are_in_flight_than_the_limit_says() {
    let (stage, _) = stage(1, &["--config-in-flight-max", "6"]);
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_millis(30)));
    let most = most_at_once(&add_and_wait(&stage, &config, 400));
    assert!((4..=6).contains(&most), "{most}");
}

#[test]
fn two_replicas_share_the_limit_on_requests_in_flight() {
    let (stage, _others) = stage(2, &["--config-in-flight-max", "6"]);
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_millis(30)));
    let most = most_at_once(&add_and_wait(&stage, &config, 400));
    assert!((4..=6).contains(&most), "{most}");
}

#[test]
fn a_limit_of_one_is_held_by_one_of_two_replicas_and_nothing_is_stuck() {
    let (stage, _others) = stage(2, &["--config-in-flight-max", "1"]);
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_millis(10)));
    assert_eq!(most_at_once(&add_and_wait(&stage, &config, 60)), 1);
}

#[test]
fn when_a_replica_leaves_the_others_take_its_part() {
    let (stage, mut others) = stage(2, &["--config-in-flight-max", "6"]);
    let config = stage.config("/a", json!({}), |_| Reply::ok().after(Duration::from_millis(30)));
    assert!(others.remove(0).terminate().success());
    wait_for("the other to know", || stage.serve().metric("live_replicas") as usize == 1);
    let most = most_at_once(&add_and_wait(&stage, &config, 300));
    assert!((5..=6).contains(&most), "{most}");
}

#[test]
fn a_rate_limit_holds_over_two_replicas() {
    let (stage, _others) = stage(2, &[]);
    let limit = json!({ "rateLimit": { "perSecond": 20, "burst": 4 } });
    let config = stage.config("/a", limit, |_| Reply::ok());
    stage.add_many(300);
    let first = stage.wait_arrived(&config, 1)[0].at;
    wait_for("four seconds", || first.elapsed() > Duration::from_millis(4_100));
    let (from, to) = (first + Duration::from_secs(1), first + Duration::from_secs(4));
    let arrivals = stage.arrivals.at("/a");
    let count = arrivals.iter().filter(|arrival| (from..to).contains(&arrival.at)).count();
    assert!((42..=78).contains(&count), "{count} in three seconds");
    let each_once = arrivals.iter().all(|arrival| arrival.nth == 1);
    assert!(each_once);
    for record in stage.logs("&status=pending") {
        assert_eq!(record["attempts"], 0, "waiting for a token is no attempt");
    }
    // Without the limit the rest goes at once.
    stage.change(&config.id, json!({ "rateLimit": null }));
    wait_within(Duration::from_secs(6), "the rest", || stage.arrivals.at("/a").len() == 300);
}

#[test]
fn a_receiver_that_bears_twenty_is_sent_about_twenty() {
    // Only the window is looked at: slow start's overshoot can be ten refusals in a row, which open a breaker.
    let (stage, _) = stage(1, &["--retry-schedule", "300ms"]);
    let config = stage.config("/a", json!({ "maxRetries": 10 }), |arrival| {
        if arrival.at_once > 20 { Reply::status(503) } else { Reply::ok().after(Duration::from_millis(50)) }
    });
    stage.add_many(3_000);
    stage.wait_arrived(&config, 200);
    let from = Instant::now();
    wait_for("four seconds", || from.elapsed() > Duration::from_secs(4));
    let arrivals = stage.arrivals.at("/a");
    let (served, refused): (Vec<&Arrival>, Vec<&Arrival>) =
        arrivals.iter().filter(|arrival| arrival.at >= from).partition(|arrival| arrival.at_once <= 20);
    // The best is 20 every 50 ms.
    let best = 4.0 * 20.0 * 20.0;
    println!("served {} of {best}, refused {}", served.len(), refused.len());
    assert!(served.len() as f64 > 0.6 * best, "served {} of {best}", served.len());
    assert!(refused.len() * 10 < served.len(), "refused {}", refused.len());
}
