//! Recovering failed deliveries in bulk: paced, watched, cancelled, through `kill -9`, and nothing twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postrider::domain::clock::UnixMillis;
use postrider::domain::delivery::{DeliveryRecord, Standing};
use postrider::domain::ids::{ConfigId, OrganisationId};
use postrider::domain::job::{Job, JobId, JobKind, JobState, Progress, Selection};
use postrider::domain::token::Role;
use serde_json::{Value, json};

use crate::arrivals::Reply;
use crate::serving::ORGANISATION;
use crate::stage::{EVENT, Put, Stage};
use crate::support::{TestSpace, wait_within};
use crate::support_http::{AdminServer, CONFIGS};

const LIMIT: Duration = Duration::from_secs(120);

/// A stage whose endpoint refuses everything until it is healed.
fn sick_stage(space: &TestSpace, extra: &[&str]) -> (Stage, Put, Arc<AtomicBool>) {
    let stage = Stage::on(&space.url, &space.namespace, extra);
    let healed = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&healed);
    let answer = move |_: &_| if state.load(Ordering::Relaxed) { Reply::ok() } else { Reply::status(400) };
    let config = stage.config("/sick", json!({}), answer);
    (stage, config, healed)
}

fn failed(stage: &Stage, config: &Put) -> usize {
    stage.redis(&["ZCARD", &stage.keys.failed(config.id.parse().expect("an id"))])
}

fn queued(stage: &Stage, config: &Put) -> usize {
    stage.redis(&["ZCARD", &stage.keys.queue(config.id.parse().expect("an id"))])
}

/// Adds events, and waits until all have failed.
fn fail_many(stage: &Stage, config: &Put, count: usize) {
    stage.add_many(count);
    wait_within(LIMIT, "all to fail", || failed(stage, config) == count);
    stage.wait_acked_within(LIMIT);
    assert_eq!(queued(stage, config), 0);
}

pub(crate) fn job_path(config: &Put, job: &Value, more: &str) -> String {
    format!("/configs/{}/jobs/{}{more}", config.id, job["id"].as_str().expect("a job's id"))
}

/// Waits until the job has `state`, and gives it.
pub(crate) fn wait_job(stage: &Stage, config: &Put, job: &Value, state: &str) -> Value {
    let mut shown = Value::Null;
    wait_within(LIMIT, &format!("the job to be {state}"), || {
        shown = stage.serve().get(&stage.token, &job_path(config, job, ""));
        assert!(shown["state"] == "running" || shown["state"] == state, "{shown}");
        shown["state"] == state
    });
    shown
}

#[test]
fn five_thousand_failed_are_recovered_at_the_rate_and_the_progress_can_be_read() {
    let space = TestSpace::new();
    let (stage, config, healed) = sick_stage(&space, &[]);
    fail_many(&stage, &config, 5_000);
    let before = stage.arrivals.at(&config.path).len();
    assert_eq!(before, 5_000);
    let path = format!("/configs/{}/recover", config.id);
    let counted = stage.serve().post(&stage.token, &path, 200, &json!({"dryRun": true}));
    assert_eq!(counted, json!({"count": 5_000, "countIsFloor": false}));
    let other = json!({"dryRun": true, "event": "reward.redeemed"});
    assert_eq!(stage.serve().post(&stage.token, &path, 200, &other)["count"], 0);
    let same = json!({"dryRun": true, "event": EVENT});
    assert_eq!(stage.serve().post(&stage.token, &path, 200, &same)["count"], 5_000);
    assert_eq!((failed(&stage, &config), queued(&stage, &config)), (5_000, 0), "a dry run moves nothing");

    healed.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let job = stage.serve().post(&stage.token, &path, 202, &json!({"ratePerSecond": 1000, "event": EVENT}));
    assert_eq!(
        (&job["state"], &job["total"], &job["kind"]),
        (&json!("running"), &json!(5_000), &json!("recover"))
    );
    let busy = stage.serve().post(&stage.token, &path, 409, &json!({}));
    assert!(busy["message"].as_str().expect("text").contains(job["id"].as_str().expect("an id")), "{busy}");
    let mut seen = Vec::new();
    wait_within(LIMIT, "some progress", || {
        let shown = stage.serve().get(&stage.token, &job_path(&config, &job, ""));
        seen.push(shown["moved"].as_u64().expect("a number"));
        seen.iter().any(|moved| (1..5_000).contains(moved))
    });
    let done = wait_job(&stage, &config, &job, "done");
    let took = began.elapsed();
    println!("5,000 at 1,000 a second took {took:?}; progress {seen:?}");
    assert!(took >= Duration::from_millis(3_500), "paced: {took:?}");
    assert_eq!((&done["moved"], &done["skipped"]), (&json!(5_000), &json!(0)), "{done}");
    assert!(done["endedAt"].is_string() && done["reached"].is_string(), "{done}");
    wait_within(LIMIT, "all to arrive again", || stage.arrivals.at(&config.path).len() == 10_000);
    wait_within(LIMIT, "the queue to be empty", || queued(&stage, &config) == 0);
    assert_eq!(failed(&stage, &config), 0);
    let arrivals = stage.arrivals.at(&config.path);
    assert!(arrivals.iter().all(|arrival| arrival.nth <= 2 && arrival.verified), "each once more, no more");
    let sizes: Vec<String> = stage.redis(&["HKEYS", &stage.keys.size(config.id.parse().expect("an id"))]);
    assert!(
        !sizes.contains(&"failedBytes".to_owned()) && !sizes.contains(&"queueBytes".to_owned()),
        "{sizes:?}"
    );
    let listed = stage.serve().get(&stage.token, &format!("/configs/{}/jobs", config.id));
    assert_eq!(listed["jobs"].as_array().expect("jobs").len(), 1);
    assert_eq!(listed["jobs"][0]["id"], job["id"]);
    let one = &stage.logs(&format!("&webhookConfigId={}&status=delivered", config.id))[0];
    assert_eq!(one["attempts"], 2, "the attempt by hand counts on: {one}");
}

#[test]
fn a_cancelled_job_stops_and_what_is_left_stays_failed() {
    let space = TestSpace::new();
    let (stage, config, healed) = sick_stage(&space, &[]);
    fail_many(&stage, &config, 1_000);
    healed.store(true, Ordering::Relaxed);
    let path = format!("/configs/{}/recover", config.id);
    let job = stage.serve().post(&stage.token, &path, 202, &json!({"ratePerSecond": 100}));
    wait_within(LIMIT, "a beginning", || failed(&stage, &config) < 950);
    let cancelled = stage.serve().post(&stage.token, &job_path(&config, &job, "/cancel"), 200, &json!({}));
    assert_eq!(cancelled["state"], "cancelled");
    let again = stage.serve().post(&stage.token, &job_path(&config, &job, "/cancel"), 200, &json!({}));
    assert_eq!(again["state"], "cancelled", "cancelling twice is no mistake");
    wait_within(LIMIT, "the moved ones to be delivered", || queued(&stage, &config) == 0);
    // A step that had its lease when the job was cancelled may still end.
    let left = || (failed(&stage, &config), stage.serve().get(&stage.token, &job_path(&config, &job, "")));
    let (rest, shown) = left();
    assert!(rest > 500, "{rest} are left");
    assert_eq!(shown["moved"].as_u64().expect("a number") + rest as u64, 1_000, "{shown}");
    // The next job finds the rest.
    let next = stage.serve().post(&stage.token, &path, 202, &json!({"ratePerSecond": 5000}));
    assert_eq!(next["total"], rest);
    wait_job(&stage, &config, &next, "done");
    let ended = stage.serve().post(&stage.token, &job_path(&config, &next, "/cancel"), 409, &json!({}));
    assert_eq!(ended["code"], "CONFLICT");
    wait_within(LIMIT, "all to arrive", || stage.arrivals.at(&config.path).len() == 2_000);
    assert!(stage.arrivals.at(&config.path).iter().all(|arrival| arrival.nth <= 2));
}

#[test]
fn a_job_of_a_paused_config_shows_that_it_looks_and_waits() {
    let space = TestSpace::new();
    let (stage, config, _) = sick_stage(&space, &[]);
    fail_many(&stage, &config, 100);
    let path = format!("/configs/{}/recover", config.id);
    let job = stage.serve().post(&stage.token, &path, 202, &json!({"ratePerSecond": 1}));
    let look = || {
        let shown = stage.serve().get(&stage.token, &job_path(&config, &job, ""));
        assert_eq!(shown["state"], "running", "{shown}");
        (shown["moved"].as_u64().expect("a number"), shown["updatedAt"].as_str().expect("a time").to_owned())
    };
    wait_within(LIMIT, "a beginning", || look().0 > 0);
    stage.serve().post(&stage.token, &format!("/configs/{}/pause", config.id), 200, &json!({}));
    let mut last = look();
    let mut steps = 0;
    wait_within(LIMIT, "the job to look three times and move nothing", || {
        let now = look();
        if now.0 > last.0 {
            steps = 0;
        } else if now.1 > last.1 {
            steps += 1;
        }
        last = now;
        steps == 3
    });
    let failed = failed(&stage, &config);
    stage.serve().post(&stage.token, &format!("/configs/{}/resume", config.id), 200, &json!({}));
    wait_within(LIMIT, "it to go on", || look().0 > last.0);
    stage.serve().post(&stage.token, &job_path(&config, &job, "/cancel"), 200, &json!({}));
    assert_eq!(failed as u64 + last.0, 100, "what it had moved was told");
}

#[test]
fn a_job_whose_replica_is_killed_is_finished_by_another_and_moves_nothing_twice() {
    let space = TestSpace::new();
    let (mut stage, config, healed) = sick_stage(&space, &[]);
    fail_many(&stage, &config, 5_000);
    // What the job moves waits in the queue, so that its work can be told from what the crash itself repeats.
    stage.change(&config.id, json!({"rateLimit": {"perSecond": 1, "burst": 1}}));
    let path = format!("/configs/{}/recover", config.id);
    healed.store(true, Ordering::Relaxed);
    let job = stage.serve().post(&stage.token, &path, 202, &json!({"ratePerSecond": 1000}));
    wait_within(LIMIT, "the middle", || failed(&stage, &config) < 4_000);
    stage.take_serve().kill();
    let left = failed(&stage, &config);
    assert!(left > 0, "all were moved before the crash: nothing is tested");
    stage.start_serve(&[]);
    let done = wait_job(&stage, &config, &job, "done");
    assert_eq!((&done["moved"], &done["skipped"]), (&json!(5_000), &json!(0)), "{done}");
    assert_eq!(failed(&stage, &config), 0);
    let queue = stage.keys.queue(config.id.parse().expect("an id"));
    let waiting: Vec<String> = stage.redis(&["ZRANGE", &queue, "0", "-1"]);
    assert!(waiting.len() > 4_500, "{} wait", waiting.len());
    for member in &waiting {
        let packed: Vec<u8> = stage.redis(&["GET", &stage.keys.delivery(member.parse().expect("an id"))]);
        // One was delivered since it was listed, or has left a mark.
        let Ok(record) = DeliveryRecord::decode(&packed) else { continue };
        assert_eq!((record.tried.attempts, record.tried.by_hand), (1, 1), "{member} was moved once");
    }
    stage.change(&config.id, json!({"rateLimit": null}));
    wait_within(LIMIT, "the queue to be empty", || queued(&stage, &config) == 0);
    let arrivals = stage.arrivals.at(&config.path);
    let repeated = arrivals.iter().filter(|arrival| arrival.nth > 2).count();
    println!("{left} were left at the crash; {repeated} attempts were in flight at it and repeated");
    assert!(repeated <= 8, "at most what was in flight at the crash: {repeated}");
    assert_eq!(stage.arrivals.tally().deliveries, 5_000);
}

#[test]
fn a_queue_without_room_makes_the_job_wait_and_never_fails_a_delivery() {
    let space = TestSpace::new();
    let (stage, config, healed) = sick_stage(&space, &["--queue-max", "100"]);
    // One by one at the endpoint, so that the first attempts do not fill the queue.
    for from in (0..300).step_by(50) {
        stage.add_some(from..from + 50);
        wait_within(LIMIT, "fifty to fail", || failed(&stage, &config) == from + 50);
    }
    let slow = json!({"rateLimit": {"perSecond": 100, "burst": 10}});
    stage.change(&config.id, slow);
    healed.store(true, Ordering::Relaxed);
    let path = format!("/configs/{}/recover", config.id);
    let job = stage.serve().post(&stage.token, &path, 202, &json!({"ratePerSecond": 5000}));
    let mut most = 0;
    wait_within(LIMIT, "all to arrive again", || {
        most = most.max(queued(&stage, &config));
        stage.arrivals.at(&config.path).len() == 600
    });
    let done = wait_job(&stage, &config, &job, "done");
    assert_eq!(done["moved"], 300, "{done}");
    println!("at most {most} waited of 100");
    assert!((10..=50).contains(&most), "half of the queue is for jobs: {most}");
    assert_eq!(failed(&stage, &config), 0);
}

#[test]
fn a_batch_that_is_applied_twice_moves_once_and_what_lost_its_body_is_skipped() {
    use postrider::redis::recover::{Next, Room, recover};
    let space = TestSpace::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (stage, config, _) = sick_stage(&space, &[]);
    let large = json!({"pad": "x".repeat(6_000)}).to_string();
    let gone = stage.add(&[("data", &large)]);
    stage.add(&[("data", &large)]);
    stage.add(&[]);
    wait_within(LIMIT, "three to fail", || failed(&stage, &config) == 3);
    stage.wait_acked();
    // Paused, so that what is moved waits.
    stage.change(&config.id, json!({"active": false}));
    let id: ConfigId = config.id.parse().expect("an id");
    stage.redis::<usize>(&["DEL", &stage.keys.body(gone.parse().expect("a stream id"))]);
    let bytes: u64 = stage.redis(&["HGET", &stage.keys.size(id), "failedBytes"]);
    let job = Job {
        id: JobId::new([7; 8]),
        kind: JobKind::Recover,
        state: JobState::Running,
        config: id,
        organisation: OrganisationId::new(ORGANISATION).expect("an id"),
        selection: Selection { since: UnixMillis(0), until: UnixMillis(1 << 47), event: None },
        rate_per_second: 1,
        total: 3,
        total_is_floor: false,
        who: "test".into(),
        started_at: UnixMillis(1),
        ended_at: None,
        reason: None,
    };
    let (redis, room) = (space.redis(), Room { count: 10, bytes: 1 << 20 });
    let start = Progress::default();
    let first = runtime.block_on(recover(&redis, &stage.keys, &job, &start, 64, room)).expect("a batch");
    assert_eq!((first.moved, first.next), (2, Next::Done));
    let second = runtime.block_on(recover(&redis, &stage.keys, &job, &start, 64, room)).expect("a batch");
    assert_eq!((second.moved, second.next), (0, Next::Overtaken));
    let shards = [stage.keys.clone()];
    let progress =
        runtime.block_on(postrider::redis::jobs::progress(&redis, &shards, job.id)).expect("progress");
    assert_eq!((progress[0].moved, progress[0].skipped, progress[0].done), (2, 1, true));
    assert_eq!((failed(&stage, &config), queued(&stage, &config)), (1, 2));
    // A second apart, as the rate says; the records wait, by hand, with their attempt kept.
    let flat: Vec<String> = stage.redis(&["ZRANGE", &stage.keys.queue(id), "0", "-1", "WITHSCORES"]);
    let scores: Vec<i64> = [&flat[1], &flat[3]].map(|score| score.parse().expect("ms")).to_vec();
    assert_eq!(scores[1] - scores[0], 1_000);
    for (member, score) in [(&flat[0], scores[0]), (&flat[2], scores[1])] {
        let packed: Vec<u8> = stage.redis(&["GET", &stage.keys.delivery(member.parse().expect("an id"))]);
        let record = DeliveryRecord::decode(&packed).expect("a record");
        assert_eq!((record.standing, record.next_attempt_at.0 as i64), (Standing::Waiting, score));
        assert_eq!((record.tried.attempts, record.tried.by_hand), (1, 1));
        assert_eq!(record.tried.history.len(), 1);
    }
    let [kept, moved]: [u64; 2] =
        ["failedBytes", "queueBytes"].map(|field| stage.redis(&["HGET", &stage.keys.size(id), field]));
    assert_eq!(kept + moved, bytes, "what one set loses the other gains");
    // Only as many as the queue has room for, and then from there on.
    let full = Job { id: JobId::new([8; 8]), ..job };
    let none =
        runtime.block_on(recover(&redis, &stage.keys, &full, &start, 64, Room { count: 2, bytes: 1 << 20 }));
    assert_eq!(none.expect("a batch").next, Next::Done, "the one that is left cannot be moved anyway");
}

#[tokio::test]
async fn nobody_elses_config_can_be_recovered_and_every_mistake_is_named() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let (mine, other) =
        (server.caller("org_1", Role::Admin).await, server.caller("org_2", Role::Admin).await);
    let viewer = server.caller("org_1", Role::Viewer).await;
    let body = json!({"url": "https://x.example/", "events": ["reward.earned"]});
    let id = mine.put(CONFIGS, &body).await.ok(200)["id"].as_str().unwrap().to_owned();
    let path = |rest: &str| format!("{CONFIGS}/{id}/{rest}");
    let job = mine.post(&path("recover"), &json!({})).await.ok(202)["id"].as_str().unwrap().to_owned();
    for (rest, procedure) in [("recover", "recoverWebhookConfig"), ("replay", "replayWebhookConfig")] {
        let unknown = format!("{CONFIGS}/0123456789abcdef00000063/{rest}");
        let theirs = other.post(&path(rest), &json!({})).await.refused(404, "NOT_FOUND", procedure);
        let nobodys = mine.post(&unknown, &json!({})).await.refused(404, "NOT_FOUND", procedure);
        assert_eq!(theirs, nobodys);
        mine.post(&format!("{CONFIGS}/x/{rest}"), &json!({})).await.refused(400, "BAD_REQUEST", procedure);
        viewer.post(&path(rest), &json!({})).await.refused(403, "FORBIDDEN", procedure);
        let wrong = json!({"since": "x", "limit": 5});
        let told = mine.post(&path(rest), &wrong).await.refused(400, "BAD_REQUEST", procedure);
        assert!(told.contains("body.since") && told.contains("body.limit"), "{told}");
    }
    let replay = json!({"since": "2026-05-01T09:00:00.000Z"});
    let told = mine.post(&path("replay"), &replay).await.refused(409, "CONFLICT", "replayWebhookConfig");
    assert!(told.contains("events-age"), "{told}");
    let one = path(&format!("jobs/{job}"));
    other.get(&one).await.refused(404, "NOT_FOUND", "getWebhookJob");
    other.get(&path("jobs")).await.refused(404, "NOT_FOUND", "getWebhookJobs");
    let cancel = format!("{one}/cancel");
    other.post(&cancel, &json!({})).await.refused(404, "NOT_FOUND", "cancelWebhookJob");
    viewer.post(&cancel, &json!({})).await.refused(403, "FORBIDDEN", "cancelWebhookJob");
    assert_eq!(viewer.get(&one).await.ok(200)["state"], "running");
    mine.get(&path("jobs/job_0000000000000000")).await.refused(404, "NOT_FOUND", "getWebhookJob");
    mine.get(&path("jobs/7")).await.refused(400, "BAD_REQUEST", "getWebhookJob");
    assert_eq!(mine.post(&cancel, &json!({})).await.ok(200)["state"], "cancelled");
    // Nothing is sent to an inactive config.
    let paused = json!({"id": id, "url": "https://x.example/", "events": ["reward.earned"], "active": false});
    mine.put(CONFIGS, &paused).await.ok(200);
    mine.post(&path("recover"), &json!({})).await.refused(409, "CONFLICT", "recoverWebhookConfig");
    assert_eq!(mine.post(&path("recover"), &json!({"dryRun": true})).await.ok(200)["count"], 0);
}

#[tokio::test]
async fn ended_jobs_are_kept_within_their_bound() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let mine = server.caller("org_1", Role::Admin).await;
    let body = json!({"url": "https://x.example/", "events": ["reward.earned"]});
    let id = mine.put(CONFIGS, &body).await.ok(200)["id"].as_str().unwrap().to_owned();
    let mut last = String::new();
    for _ in 0..25 {
        let begun = mine.post(&format!("{CONFIGS}/{id}/recover"), &json!({})).await.ok(202);
        last = begun["id"].as_str().unwrap().to_owned();
        mine.post(&format!("{CONFIGS}/{id}/jobs/{last}/cancel"), &json!({})).await.ok(200);
    }
    let listed = mine.get(&format!("{CONFIGS}/{id}/jobs")).await.ok(200);
    let jobs = listed["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 20);
    assert_eq!(jobs[0]["id"], last.as_str(), "the newest come first");
    let running: usize =
        redis::cmd("ZCARD").arg(server.state.redis.keys().running()).query(&mut space.raw()).unwrap();
    assert_eq!(running, 0);
}
