//! Replicas that die, freeze and stop.

use std::time::{Duration, Instant};

use crate::Form;
use crate::figures::Figures;
use crate::judge::again_after;
use crate::process::{Replica, pass, wait};
use crate::receivers::Act;
use crate::world::World;

/// kill -9 of a random replica of three, again and again, under load on a fast and a slow endpoint; each time a new
/// one takes its place.
pub(crate) fn kill(form: Form) -> Figures {
    let kills = form.pick(20, 5);
    let (rate, every) = (2_000, Duration::from_millis(2_000));
    let mut world = World::new(2, &[]);
    world.behave(1, |_| Act::Answer(200, Duration::from_millis(50)));
    world.start_replicas(3);
    let publisher = world.publish(world.plan(rate));
    world.wait_arrivals(2_000);
    for number in 1..=kills {
        let victim = world.replicas.remove(rand::random_range(0..world.replicas.len()));
        victim.kill();
        world.ledger.fault(format!("kill {number}"));
        let next = world.launch();
        world.replicas.push(next);
        pass(every);
        world.wait_arrivals(100);
    }
    publisher.stop();
    let figures = Figures::of(world.rest());
    // At most what the dead one, a third of all, took in the second before its death, for both endpoints.
    let promised = kills * rate * 2 / 3;
    let duplicates = figures.verdict.duplicates;
    figures
        .fault(kills, "kills of a random replica of 3")
        .note(format!("{rate} events/s"))
        .promise(duplicates <= promised, format!("{duplicates} duplicates, at most {promised} promised"))
}

/// SIGSTOP of a replica of two for longer than its lease, then SIGCONT: it must neither send what the other has
/// finished meanwhile, nor bring it back.
pub(crate) fn freeze(form: Form) -> Figures {
    let rounds = form.pick(10, 3);
    let mut world = World::new(2, &[]);
    let retries = ["--retry-schedule", "200ms,500ms,1s", "--breaker-failures", "0"];
    world.serve_with(["--lease", "1s", "--request-timeout", "1s"]);
    world.launch.extra.extend(retries.map(str::to_owned));
    world.behave(0, |_| Act::Answer(200, Duration::from_millis(150)));
    // Every first attempt fails: what the frozen one decides when it wakes goes through the settle script.
    world.behave(1, |asked| Act::Answer(if asked.nth == 1 { 500 } else { 200 }, Duration::from_millis(100)));
    world.start_replicas(2);
    let (mut takeovers, mut again) = (0, 0);
    for _ in 0..rounds {
        let publisher = world.publish(world.plan(600));
        world.wait_arrivals(500);
        let before = world.replicas[1].metric("reclaimed");
        let frozen_at = Instant::now();
        world.replicas[0].signal("STOP");
        wait(Duration::from_secs(20), "the other replica to take over", || {
            world.replicas[1].metric("reclaimed") > before
        });
        takeovers += 1;
        publisher.stop();
        // Claims of the frozen one end 11 s after they were made (request timeout and 10 s); the other finishes all.
        at_rest(&world);
        let woken_at = Instant::now();
        world.ledger.fault_since("freeze", frozen_at);
        world.replicas[0].signal("CONT");
        // Long enough for everything that it still held to be sent, queued and claimed again.
        pass(Duration::from_secs(4));
        again += again_after(&world.ledger.book(), woken_at, Instant::now());
    }
    // The lease is asked for in the same turn that writes the request, so a freeze can only fall between the two in
    // the one attempt that each of its two workers was at.
    let promised = 2 * rounds;
    Figures::of(world.rest())
        .fault(rounds, "freezes past the lease")
        .fault(takeovers, "takeovers")
        .note(format!("{again} sent again after the wake-up"))
        .promise(
            again <= promised,
            format!(
                "{again} finished deliveries were sent again by the woken one, at most {promised} promised"
            ),
        )
}

/// Waits until the others have finished, or for a minute: what is left then is the judge's to see.
fn at_rest(world: &World) {
    let mut connection = world.raw();
    let configs: Vec<_> = world.endpoints.iter().map(|endpoint| endpoint.config).collect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        let now = crate::judge::remains(&mut connection, &world.keys, &configs).expect("Redis answers");
        if now.pending + now.unread + now.due + now.queued == 0 {
            return;
        }
        pass(Duration::from_millis(50));
    }
}

/// SIGTERM and a new replica, one after the other, under load with a slow endpoint: no duplicate, nothing lost.
pub(crate) fn rolling_restart(form: Form) -> Figures {
    let rounds = form.pick(3, 1);
    let mut world = World::new(2, &[]);
    world.behave(1, |_| Act::Answer(200, Duration::from_millis(1_500)));
    world.start_replicas(3);
    let publisher = world.publish(world.plan(form.pick(400, 200)));
    world.wait_arrivals(500);
    let mut restarts = 0;
    for _ in 0..rounds * 3 {
        let old = world.replicas.remove(0);
        old.terminate(Duration::from_secs(30));
        restarts += 1;
        world.start_replicas(1);
        world.wait_arrivals(200);
    }
    publisher.stop();
    let figures = Figures::of(world.rest());
    let duplicates = figures.verdict.duplicates;
    figures
        .fault(restarts, "restarts by SIGTERM, 3 replicas, one endpoint answering after 1.5 s")
        .promise(duplicates == 0, format!("{duplicates} duplicates by restarts, none promised"))
}

/// SIGTERM while attempts hang, and a second one: the replica ends at once, and another delivers what it had.
pub(crate) fn second_signal(form: Form) -> Figures {
    let rounds = form.pick(5, 2);
    let mut world = World::new(1, &[]);
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        world.behave(0, |_| Act::Hang(Duration::from_secs(60)));
        world.start_replicas(1);
        let plan = crate::publisher::Plan { count: 200, ..world.plan(1_000) };
        world.publish(plan).join();
        world.wait_arrivals(8);
        let mut replica: Replica = world.replicas.remove(0);
        replica.signal("TERM");
        wait(Duration::from_secs(5), "the drain to begin", || replica.text().contains("stopping"));
        assert!(replica.runs(), "it ended although attempts hang: the second signal has nothing to do");
        let began = Instant::now();
        replica.signal("TERM");
        replica.wait_end(Duration::from_secs(10));
        slowest = slowest.max(began.elapsed());
        world.ledger.fault("second signal");
        world.behave(0, |_| Act::Answer(200, Duration::ZERO));
        world.start_replicas(1);
        at_rest(&world);
        world.replicas.remove(0).terminate(Duration::from_secs(30));
    }
    world.start_replicas(1);
    Figures::of(world.rest())
        .fault(rounds, "second signals while attempts hang")
        .note(format!("ended within {:.2} s", slowest.as_secs_f64()))
        .promise(slowest < Duration::from_secs(2), format!("a second signal took {slowest:?}"))
}
