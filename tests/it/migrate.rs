//! Migrations with steps of the test's own on a real Redis: planned, applied, killed midway and gone on with,
//! verified; and what is refused.

use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::future::BoxFuture;
use postrider::redis::connection::Redis;
use postrider::redis::keyspace;
use postrider::redis::leases;
use postrider::redis::migrate::{self, Batch, Run, Scope, Step};
use postrider::settings::redis::RedisSettings;

use crate::cli::{code, err, program};
use crate::support::{TestSpace, wait_for};

/// Values that the steps change.
const VALUES: u64 = 2_000;
/// Values of a batch.
const BATCH: u64 = 20;

/// Gives each `value:<n>` of shard 0 the form `new:<n>`, from `old:<n>`.
struct Rename {
    /// Where the values lie.
    url: String,
    namespace: String,
    to: u32,
    needs_stop: bool,
    pause: Duration,
}

// === impl Rename ===

impl Rename {
    fn of(space: &TestSpace) -> Self {
        let (url, namespace) = (space.url.clone(), space.namespace.clone());
        Self { url, namespace, to: 2, needs_stop: true, pause: Duration::ZERO }
    }

    fn key(&self, number: u64) -> String {
        format!("{}:{{0}}:value:{number}", self.namespace)
    }

    async fn do_batch(&self, cursor: &str, is_dry: bool) -> Batch {
        let from: u64 = cursor.parse().unwrap_or(0);
        let client = redis::Client::open(self.url.as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut batch = Batch::default();
        for number in from..(from + BATCH).min(VALUES) {
            let value: String =
                redis::cmd("GET").arg(self.key(number)).query_async(&mut connection).await.unwrap();
            batch.seen += 1;
            if let Some(rest) = value.strip_prefix("old:") {
                batch.changed += 1;
                if !is_dry {
                    let new = format!("new:{rest}");
                    let mut set = redis::cmd("SET");
                    set.arg(self.key(number)).arg(new).query_async::<()>(&mut connection).await.unwrap();
                }
            }
        }
        tokio::time::sleep(self.pause).await;
        batch.next = (from + BATCH < VALUES).then(|| (from + BATCH).to_string());
        batch
    }
}

impl Step for Rename {
    fn id(&self) -> &'static str {
        "rename-values"
    }

    fn what(&self) -> &'static str {
        "gives values their new form"
    }

    fn to(&self) -> u32 {
        self.to
    }

    fn needs_stop(&self) -> bool {
        self.needs_stop
    }

    fn batch<'a>(
        &'a self,
        _: Scope<'a>,
        cursor: &'a str,
        is_dry: bool,
    ) -> BoxFuture<'a, postrider::redis::connection::Result<Batch>> {
        Box::pin(async move { Ok(self.do_batch(cursor, is_dry).await) })
    }
}

/// A keyspace of version 1 with values in the old form.
async fn old_keyspace() -> TestSpace {
    let space = TestSpace::new();
    keyspace::open(&space.redis().link(), 1).await.unwrap();
    let step = Rename::of(&space);
    let mut pipeline = redis::pipe();
    for number in 0..VALUES {
        pipeline.cmd("SET").arg(step.key(number)).arg(format!("old:{number}")).ignore();
    }
    pipeline.query::<()>(&mut space.raw()).unwrap();
    space
}

fn run(owner: &str, lease: Duration) -> Run {
    Run { owner: owner.into(), lease }
}

fn meta(space: &TestSpace, field: &str) -> Option<String> {
    let key = format!("{}:{{control}}:meta", space.namespace);
    redis::cmd("HGET").arg(key).arg(field).query(&mut space.raw()).unwrap()
}

/// Values in the new form; each must hold its own number.
fn renamed(space: &TestSpace) -> u64 {
    let step = Rename::of(space);
    let mut raw = space.raw();
    let value = |number: u64| redis::cmd("GET").arg(step.key(number)).query::<String>(&mut raw).unwrap();
    let values: Vec<String> = (0..VALUES).map(value).collect();
    let good = |(number, value): (usize, &String)| {
        assert!(*value == format!("old:{number}") || *value == format!("new:{number}"), "{value}");
        u64::from(value.starts_with("new:"))
    };
    values.iter().enumerate().map(good).sum()
}

async fn apply(redis: &Redis, step: &Rename, run: &Run) -> Result<(u32, u64), String> {
    let mut changed = 0;
    let mut progress = |_: &dyn Step, batch: &Batch| changed += batch.changed;
    let done = migrate::apply(redis, &[step], run, &mut progress).await.map_err(|error| error.to_string())?;
    Ok((done, changed))
}

#[tokio::test]
async fn a_step_is_counted_applied_once_and_verified() {
    let space = old_keyspace().await;
    let (redis, step) = (space.redis(), Rename::of(&space));
    let steps: [&dyn Step; 1] = [&step];
    let state = migrate::state(&redis, &steps).await.unwrap();
    assert_eq!((state.version, state.under_way.clone(), state.live), (Some(1), None, 0));
    let planned = migrate::count(&redis, &steps, &state, false).await.unwrap();
    assert_eq!((planned.len(), planned[0].seen, planned[0].old), (1, VALUES, VALUES));
    assert_eq!(renamed(&space), 0, "a plan changes nothing");
    assert!(migrate::count(&redis, &steps, &state, true).await.unwrap().is_empty());

    let here = run("one", Duration::from_secs(30));
    assert_eq!(apply(&redis, &step, &here).await, Ok((2, VALUES)));
    assert_eq!((renamed(&space), meta(&space, "keyspaceVersion")), (VALUES, Some("2".into())));
    assert_eq!((meta(&space, "migration"), meta(&space, "migrationOwner")), (None, None));
    let state = migrate::state(&redis, &steps).await.unwrap();
    let verified = migrate::count(&redis, &steps, &state, true).await.unwrap();
    assert_eq!((verified[0].seen, verified[0].old), (VALUES, 0));
    assert_eq!(apply(&redis, &step, &here).await, Ok((2, 0)), "a second time there is nothing to do");

    // The program of today knows version 1 only: it leaves the newer keyspace alone.
    let reach = ["--redis-url", &space.url, "--namespace", &space.namespace];
    for words in [&["migrate", "plan"][..], &["migrate", "apply"], &["serve", "--listen", "127.0.0.1:0"]] {
        let output = program(&[words, &reach].concat()).output().expect("it runs");
        assert!(code(&output) == 1 && err(&output).contains("version"), "{words:?}: {}", err(&output));
    }
}

#[tokio::test]
async fn a_killed_run_is_gone_on_with_where_it_was() {
    let space = old_keyspace().await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "migrate::the_run_that_is_killed", "--ignored"])
        .env("MIGRATE_URL", &space.url)
        .env("MIGRATE_NAMESPACE", &space.namespace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("a third of the work", || renamed(&space) > VALUES / 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = renamed(&space);
    assert!(before < VALUES, "it was killed midway");
    assert_eq!(meta(&space, "keyspaceVersion"), Some("1".into()));

    // No replica starts on it: neither version can read all of it.
    let started = keyspace::open(&space.redis().link(), 1).await;
    assert!(started.unwrap_err().to_string().contains("migrate apply"));
    let (redis, step) = (space.redis(), Rename::of(&space));
    let state = migrate::state(&redis, &[&step]).await.unwrap();
    let (under_way, told) = state.under_way.expect("a step");
    assert!(under_way == "rename-values" && told > 0 && told <= before, "{told} of {before}");
    // The lease of the killed run has to end first.
    let refused = apply(&redis, &step, &run("two", Duration::from_secs(30))).await.unwrap_err();
    assert!(refused.contains("another run is at work"), "{refused}");
    let mut done = Err(String::new());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while done.is_err() && tokio::time::Instant::now() < deadline {
        done = apply(&redis, &step, &run("two", Duration::from_secs(30))).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (version, changed) = done.unwrap();
    assert_eq!(version, 2);
    assert_eq!(changed, VALUES - before, "what was done is not done again");
    assert_eq!(renamed(&space), VALUES);
}

/// A process of its own, for the test above to kill.
#[tokio::test]
#[ignore = "it is started by the test that kills it"]
async fn the_run_that_is_killed() {
    let Ok(url) = std::env::var("MIGRATE_URL") else { return };
    let namespace = std::env::var("MIGRATE_NAMESPACE").unwrap();
    let settings = RedisSettings { namespace: namespace.clone(), ..RedisSettings::default() };
    let redis = Redis::new(&url, &settings).unwrap();
    let step = Rename { url, namespace, to: 2, needs_stop: true, pause: Duration::from_millis(20) };
    apply(&redis, &step, &run("killed", Duration::from_secs(3))).await.unwrap();
}

#[tokio::test]
async fn a_step_that_needs_a_stop_waits_for_replicas_and_one_that_does_not_runs_beside_them() {
    let space = old_keyspace().await;
    let (redis, mut step) = (space.redis(), Rename::of(&space));
    let link = redis.link();
    let shard = keyspace::shards(&link).await.unwrap().remove(0);
    leases::renew(&link, &shard, "replica.0", Duration::from_secs(60), None).await.unwrap();
    let refused = apply(&redis, &step, &run("one", Duration::from_secs(30))).await.unwrap_err();
    assert!(refused.contains("1 consumers hold a lease"), "{refused}");
    assert_eq!((renamed(&space), meta(&space, "migration")), (0, None), "nothing was begun");
    keyspace::open(&link, 1).await.expect("replicas may start again");

    step.needs_stop = false;
    assert_eq!(apply(&redis, &step, &run("two", Duration::from_secs(30))).await, Ok((2, VALUES)));
}

#[test]
fn today_there_is_nothing_to_do() {
    let space = TestSpace::new();
    let reach = ["--redis-url", &space.url, "--namespace", &space.namespace, "--output", "json"];
    let run = |word: &str| {
        let output = program(&[&["migrate", word][..], &reach].concat()).output().expect("it runs");
        (code(&output), serde_json::from_slice::<serde_json::Value>(&output.stdout).ok())
    };
    let (exit, plan) = run("plan");
    assert_eq!((exit, &plan.unwrap()["version"]), (0, &serde_json::Value::Null));
    assert_eq!(run("apply").0, 1, "there is no keyspace");
    redis::cmd("HSET")
        .arg(format!("{}:{{control}}:meta", space.namespace))
        .arg(&["keyspaceVersion", "1", "shards", "1"])
        .query::<()>(&mut space.raw())
        .unwrap();
    let plan = run("plan").1.unwrap();
    assert_eq!(
        (&plan["version"], &plan["target"], &plan["steps"]),
        (&1.into(), &1.into(), &serde_json::json!([]))
    );
    assert_eq!(run("apply"), (0, Some(serde_json::json!({"version": 1, "changed": 0}))));
    assert_eq!(run("verify").0, 0);
}
