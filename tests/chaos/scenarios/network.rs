//! The way between the dispatcher and Redis: cut at each command, cut after any number of bytes, half-closed,
//! stalled and slow.

use std::time::{Duration, Instant};

use crate::Form;
use crate::figures::Figures;
use crate::process::{pass, wait};
use crate::proxy::{Fate, Moment, Proxy};
use crate::receivers::Act;
use crate::world::World;

/// What the dispatcher says to Redis on its walk: reading, recovering, attempt logs, acknowledging, leases, the
/// scripts that settle and claim, and reading what was claimed.
const COMMANDS: [&str; 9] =
    ["XREADGROUP", "XPENDING", "SCRIPT", "XADD", "XACK", "EVALSHA", "ZRANGEBYSCORE", "GET", "XINFO"];

const MOMENTS: [Moment; 3] = [Moment::Before, Moment::Middle, Moment::Answer];

/// Two replicas behind a proxy; a fast endpoint, and one whose first two attempts fail.
fn world() -> (World, Proxy) {
    let mut world = World::new(2, &[]);
    world.behave(1, |asked| Act::Answer(if asked.nth <= 2 { 500 } else { 200 }, Duration::ZERO));
    let proxy = Proxy::start(&world.runtime, world.redis.port);
    world.launch.redis_url = proxy.url();
    world.start_replicas(2);
    (world, proxy)
}

/// Each command of the walk is cut before Redis has it, in its middle, and before its answer.
pub(crate) fn steps(form: Form) -> Figures {
    let rounds = form.pick(5, 1);
    let (world, proxy) = world();
    let publisher = world.publish(world.plan(300));
    world.wait_arrivals(300);
    let (mut done, began) = (Vec::new(), Instant::now());
    for _ in 0..rounds {
        for command in COMMANDS {
            for moment in MOMENTS {
                proxy.arm(command, moment);
                // What is said only after an error, or seldom, is brought about by another cut.
                let mut asked = Instant::now();
                wait(Duration::from_secs(30), &format!("{command} to be said"), || {
                    if asked.elapsed() > Duration::from_secs(1) {
                        proxy.fates(|_| Fate::Live);
                        asked = Instant::now();
                    }
                    !proxy.is_armed()
                });
                done.push((command, moment));
            }
        }
    }
    proxy.disarm();
    world.ledger.fault_since("cuts at commands", began);
    world.wait_arrivals(300);
    publisher.stop();
    assert!(proxy.cuts() >= done.len());
    Figures::of(world.rest())
        .fault(done.len(), "cuts at a command")
        .note(format!("{} commands, before, in the middle, before the answer", COMMANDS.len()))
}

/// Every connection is cut after a number of bytes, one way or the other, from 10 to half a million.
pub(crate) fn cuts(form: Form) -> Figures {
    let (world, proxy) = world();
    let publisher = world.publish(world.plan(500));
    world.wait_arrivals(300);
    let began = Instant::now();
    proxy.fates(|number| {
        // Spread over the orders of magnitude, for commands are short and the scripts' loading is long.
        let bytes = 10_f64.powf(1.0 + rand::random::<f64>() * 4.7) as u64;
        if number % 2 == 0 { Fate::CutAfterSent(bytes) } else { Fate::CutAfterReceived(bytes / 4) }
    });
    pass(Duration::from_secs(form.pick(60, 12)));
    let (cuts, bytes) = (proxy.cuts(), proxy.bytes());
    proxy.heal();
    world.ledger.fault_since("cuts after n bytes", began);
    world.wait_arrivals(300);
    publisher.stop();
    Figures::of(world.rest())
        .fault(cuts, "connections cut after n bytes")
        .note(format!("{} KiB carried", bytes / 1024))
}

/// Connections that are half-closed, that go silent, and that are slow.
pub(crate) fn stalls(form: Form) -> Figures {
    let (mut world, proxy) = {
        let mut world = World::new(2, &[]);
        world.behave(1, |asked| Act::Answer(if asked.nth <= 2 { 500 } else { 200 }, Duration::ZERO));
        let proxy = Proxy::start(&world.runtime, world.redis.port);
        world.launch.redis_url = proxy.url();
        world.launch.extra.extend(["--redis-response-timeout".into(), "1s".into()]);
        (world, proxy)
    };
    world.start_replicas(2);
    let publisher = world.publish(world.plan(500));
    world.wait_arrivals(300);
    let spread = || 10_f64.powf(3.0 + rand::random::<f64>() * 2.0) as u64;
    let mut counts = Vec::new();
    for kind in ["half-closed", "silent"] {
        let (began, before) = (Instant::now(), proxy.cuts());
        match kind {
            "half-closed" => proxy.fates(move |_| Fate::HalfClose(spread())),
            _ => proxy.fates(move |_| Fate::Stall(spread())),
        }
        pass(Duration::from_secs(form.pick(30, 6)));
        counts.push(proxy.cuts() - before);
        proxy.heal();
        world.ledger.fault_since(kind, began);
        world.wait_arrivals(300);
    }
    let began = Instant::now();
    proxy.delay(Duration::from_millis(100));
    let slow_from = world.ledger.book().arrivals.len();
    pass(Duration::from_secs(form.pick(20, 4)));
    let slow = world.ledger.book().arrivals.len() - slow_from;
    proxy.heal();
    world.ledger.fault_since("slow", began);
    publisher.stop();
    Figures::of(world.rest())
        .fault(counts[0], "connections half-closed")
        .fault(counts[1], "connections gone silent")
        .fault(slow, "requests while Redis was 200 ms away")
}
