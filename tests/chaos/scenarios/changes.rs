//! Configs that change while thousands of deliveries wait for them.

use std::time::Duration;

use postrider::domain::delivery::FailReason;
use serde_json::{Value, json};

use crate::Form;
use crate::admin;
use crate::figures::Figures;
use crate::process::{pass, wait};
use crate::publisher::{EVENT, Plan};
use crate::receivers::Act;
use crate::world::{World, key, secret};

/// What becomes of each endpoint.
const PAUSED: usize = 0;
const GONE: usize = 1;
const DELETED: usize = 2;
const NEW_SECRET: usize = 3;
const UNTOUCHED: usize = 4;

/// A pause (and its end), a 410, a deletion and a new secret, each in the middle of a backlog of the endpoint's.
pub(crate) fn in_a_backlog(form: Form) -> Figures {
    let count = form.pick(5_000, 1_000);
    let mut world = World::new(5, &[]);
    let retries = ["--retry-schedule", "2s,1s", "--breaker-failures", "0"];
    world.serve_with(["--lease", "2s", "--request-timeout", "3s"]);
    world.launch.extra.extend(retries.map(str::to_owned));
    for number in [PAUSED, GONE, DELETED, NEW_SECRET] {
        // Everything fails at first, so that a backlog builds up.
        world.behave(number, |_| Act::Answer(500, Duration::ZERO));
    }
    world.may_fail(GONE, &[FailReason::Gone]);
    world.may_fail(DELETED, &[FailReason::Deleted]);
    world.start_replicas(2);
    world.publish(Plan { count, ..world.plan(2_000) }).join();
    wait(Duration::from_secs(60), "first attempts to be made", || {
        (0..5).all(|number| world.ledger.arrivals_at(number) >= count)
    });
    let port = world.replicas[0].admin_port;

    change(&world, port, PAUSED, "active", json!(false));
    let keys = vec![key(&secret(NEW_SECRET, 0)), key(&secret(NEW_SECRET, 1))];
    world.receivers.endpoint(NEW_SECRET, keys, |_| Act::Answer(500, Duration::ZERO));
    change(&world, port, NEW_SECRET, "secret", json!(secret(NEW_SECRET, 1)));
    let all = admin::configs(port, &world.token);
    let deleted = world.endpoints[DELETED].config.to_string();
    let rest: Vec<Value> = all.into_iter().filter(|config| config["id"] != deleted.as_str()).collect();
    admin::put_configs(port, &world.token, &Value::Array(rest));
    world.behave(GONE, |_| Act::Answer(410, Duration::ZERO));
    pass(Duration::from_secs(1));

    let paused_from = world.ledger.arrivals_at(PAUSED);
    world.behave(PAUSED, |_| Act::Answer(200, Duration::ZERO));
    // From here on only the new secret is right.
    world
        .receivers
        .endpoint(NEW_SECRET, vec![key(&secret(NEW_SECRET, 1))], |_| Act::Answer(200, Duration::ZERO));
    pass(Duration::from_secs(form.pick(6, 3)));
    let while_paused = world.ledger.arrivals_at(PAUSED) - paused_from;
    change(&world, port, PAUSED, "active", json!(true));
    let figures = Figures::of(world.rest());
    let failed = figures.verdict.failed.clone();
    let of = |reason: FailReason| failed.get(reason.as_str()).copied().unwrap_or(0);
    let last = admin::configs(port, &world.token);
    let gone = last.iter().find(|config| config["id"] == world.endpoints[GONE].config.to_string().as_str());
    let disabled = gone.is_some_and(|config| config["disabledReason"] == "gone");
    figures
        .fault(4, &format!("changes (pause, 410, delete, secret) in backlogs of {count}"))
        .fault(of(FailReason::Gone), "ended as gone")
        .fault(of(FailReason::Deleted), "ended as deleted")
        .promise(disabled, "the config that answered 410 is not disabled")
        .promise(while_paused == 0, format!("{while_paused} requests while paused"))
        .promise(
            world.ledger.arrivals_at(UNTOUCHED) == count,
            "the untouched endpoint got too few or too many",
        )
}

fn change(world: &World, port: u16, number: usize, field: &str, value: Value) {
    let id = world.endpoints[number].config.to_string();
    let all = admin::configs(port, &world.token);
    let mine = all.iter().find(|config| config["id"] == id.as_str()).expect("the config");
    let mut config = json!({ "id": id, "url": mine["url"], "events": [EVENT], "maxRetries": 10 });
    config[field] = value;
    admin::put_configs(port, &world.token, &config);
}
