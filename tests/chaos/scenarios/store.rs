//! A Redis that crashes, loses, goes away, hangs and forgets its scripts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use postrider::domain::ids::StreamId;

use crate::Form;
use crate::figures::Figures;
use crate::process::{pass, wait};
use crate::receivers::Act;
use crate::world::World;

const ALWAYS: [&str; 2] = ["--appendfsync", "always"];
const EVERYSEC: [&str; 2] = ["--appendfsync", "everysec"];

/// Two replicas, a fast endpoint and one whose first attempts fail.
fn world(redis_extra: &[&str]) -> World {
    let mut world = World::new(2, redis_extra);
    world.behave(1, |asked| Act::Answer(if asked.nth == 1 { 500 } else { 200 }, Duration::from_millis(20)));
    world.start_replicas(2);
    world
}

fn kill_and_restart(form: Form, extra: &[&str]) -> Figures {
    let kills = form.pick(10, 3);
    let mut world = world(extra);
    let publisher = world.publish(world.plan(1_000));
    for number in 1..=kills {
        world.wait_arrivals(4_000);
        let began = Instant::now();
        world.redis.end("KILL");
        world.redis.start_again(extra);
        world.ledger.fault_since(format!("kill {number}"), began);
    }
    world.wait_arrivals(1_000);
    publisher.stop();
    Figures::of(world.rest()).fault(kills, "kills of Redis").note("1,000 events/s")
}

/// kill -9 of Redis with `appendfsync always`.
pub(crate) fn kill_always(form: Form) -> Figures {
    kill_and_restart(form, &ALWAYS)
}

/// kill -9 of Redis with `appendfsync everysec`: what the kernel has of the file survives the process.
pub(crate) fn kill_everysec(form: Form) -> Figures {
    kill_and_restart(form, &EVERYSEC)
}

/// Power loss under `appendfsync everysec`: the last second and a half of the file is gone. What Redis lost is
/// counted apart.
pub(crate) fn power_loss(form: Form) -> Figures {
    let losses = form.pick(3, 1);
    let mut world = world(&EVERYSEC);
    let mut bytes_lost = 0;
    for number in 1..=losses {
        let publisher = world.publish(world.plan(1_000));
        world.wait_arrivals(2_000);
        let file = append_only_file(&world);
        let (since, synced) = (Instant::now(), file.metadata().expect("the file").len());
        pass(Duration::from_millis(1_500));
        world.redis.end("KILL");
        publisher.stop();
        let whole = file.metadata().expect("the file").len();
        std::fs::File::options()
            .write(true)
            .open(&file)
            .and_then(|open| open.set_len(synced))
            .expect("a cut");
        bytes_lost += whole - synced;
        let published = world.ledger.book().notes.len();
        world.redis.start_again(&EVERYSEC);
        world.ledger.fault_since(format!("power loss {number}"), since);
        let last = last_id(&world);
        world.kept.push((last, published));
        at_rest(&world);
    }
    let figures = Figures::of(world.rest());
    let by_redis = figures.verdict.lost_by_redis;
    figures
        .fault(losses, "power losses")
        .fault(usize::try_from(bytes_lost).unwrap_or(usize::MAX), "bytes of the file gone")
        .note(format!("{by_redis} acknowledged entries lost by Redis itself"))
}

fn at_rest(world: &World) {
    let (verdict, _) = world.rest();
    assert!(verdict.problems.is_empty(), "the promise is broken: {:?}", verdict.problems);
}

fn append_only_file(world: &World) -> PathBuf {
    let folder = world.redis.directory.join("appendonlydir");
    let files = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max().expect("an incremental file")
}

/// The stream's last id as it is now.
fn last_id(world: &World) -> StreamId {
    let info: std::collections::HashMap<String, redis::Value> =
        redis::cmd("XINFO").arg("STREAM").arg(world.keys.events()).query(&mut world.raw()).expect("XINFO");
    let text: String = redis::from_redis_value_ref(&info["last-generated-id"]).expect("an id");
    let (ms, seq) = text.split_once('-').expect("an id");
    StreamId { ms: ms.parse().expect("ms"), seq: seq.parse().expect("seq") }
}

/// Redis is away for longer than every lease, with attempts under way.
pub(crate) fn away(form: Form) -> Figures {
    let times = form.pick(3, 1);
    let mut world = world(&ALWAYS);
    let publisher = world.publish(world.plan(1_000));
    for number in 1..=times {
        world.wait_arrivals(1_000);
        let began = Instant::now();
        world.redis.end("KILL");
        wait(Duration::from_secs(30), "readiness to go red", || !world.replicas[0].is_ready());
        pass(Duration::from_secs(form.pick(15, 7)));
        world.redis.start_again(&ALWAYS);
        world.ledger.fault_since(format!("away {number}"), began);
        world.replicas.iter().for_each(crate::process::Replica::wait_ready);
    }
    world.wait_arrivals(1_000);
    publisher.stop();
    Figures::of(world.rest()).fault(times, "absences of Redis of over three leases")
}

/// Redis is frozen for longer than every lease and the answer timeout, and goes on: connections live, answers come
/// late, its clock has jumped past every lease.
pub(crate) fn hangs(form: Form) -> Figures {
    let times = form.pick(5, 1);
    let world = world(&ALWAYS);
    let publisher = world.publish(world.plan(1_000));
    for number in 1..=times {
        world.wait_arrivals(1_000);
        let began = Instant::now();
        world.redis.signal("STOP");
        pass(Duration::from_secs(7));
        world.redis.signal("CONT");
        world.ledger.fault_since(format!("hang {number}"), began);
    }
    world.wait_arrivals(1_000);
    publisher.stop();
    Figures::of(world.rest()).fault(times, "freezes of Redis of over three leases")
}

/// `SCRIPT FLUSH` twenty times a second.
pub(crate) fn script_flush(form: Form) -> Figures {
    let flushes = form.pick(600, 100);
    let world = world(&[]);
    let publisher = world.publish(world.plan(1_000));
    world.wait_arrivals(1_000);
    let (mut connection, began) = (world.raw(), Instant::now());
    for _ in 0..flushes {
        redis::cmd("SCRIPT").arg("FLUSH").query::<()>(&mut connection).expect("SCRIPT FLUSH");
        pass(Duration::from_millis(50));
    }
    world.ledger.fault_since("flushes", began);
    publisher.stop();
    let stats: String = redis::cmd("INFO").arg("errorstats").query(&mut connection).expect("INFO");
    let missed = stats
        .lines()
        .find_map(|line| line.strip_prefix("errorstat_NOSCRIPT:count=")?.trim().parse().ok())
        .unwrap_or(0);
    Figures::of(world.rest()).fault(flushes, "SCRIPT FLUSH").fault(missed, "NOSCRIPT answers")
}
