//! A Redis without memory, and one without a disk.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::Form;
use crate::figures::Figures;
use crate::process::{pass, wait};
use crate::publisher::Plan;
use crate::world::World;

/// Producers fill Redis to `maxmemory` while nobody reads; replicas that start then drain it without help.
pub(crate) fn full(form: Form) -> Figures {
    let times = form.pick(3, 1);
    let mut world = World::new(1, &["--maxmemory", "24mb"]);
    for _ in 0..times {
        let flood = Plan { rate: 0, refusals_max: 1_000, padding: 1_000, ..world.plan(0) };
        world.publish(flood).join();
        world.start_replicas(2);
        // A producer goes on meanwhile: it is refused, and then no longer.
        let publisher = world.publish(Plan { padding: 1_000, ..world.plan(500) });
        let acknowledged = world.ledger.book().published().0;
        world.wait_published(acknowledged + 500);
        publisher.stop();
        let (verdict, _) = world.rest();
        assert!(verdict.complaints().is_empty(), "the promise is broken: {:?}", verdict.complaints());
        for replica in world.replicas.drain(..) {
            replica.terminate(Duration::from_secs(30));
        }
    }
    world.start_replicas(1);
    let figures = Figures::of(world.rest());
    let refused = figures.verdict.refused;
    figures.fault(times, "floods to maxmemory").fault(refused, "XADD refused with OOM")
}

/// The file under Redis's data cannot grow: every write is refused with MISCONF until it can again.
pub(crate) fn disk_full(form: Form) -> Figures {
    let times = form.pick(3, 1);
    let mut world = World::new(2, &["--appendfsync", "everysec"]);
    world.behave(1, |asked| {
        crate::receivers::Act::Answer(if asked.nth == 1 { 500 } else { 200 }, Duration::ZERO)
    });
    world.start_replicas(2);
    let publisher = world.publish(world.plan(1_000));
    let pid = Pid::from_raw(world.redis.pid() as i32).expect("a process id");
    let free = getrlimit(Resource::Fsize);
    for number in 1..=times {
        world.wait_arrivals(1_000);
        let began = Instant::now();
        // Smaller than the file is already: no further byte fits.
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: Some(1_024), maximum: free.maximum })
            .expect("a limit on the size of files");
        wait(Duration::from_secs(20), "Redis to refuse writes", || refused(&world) > 0);
        pass(Duration::from_secs(form.pick(10, 4)));
        prlimit(Some(pid), Resource::Fsize, free).expect("no limit");
        world.ledger.fault_since(format!("full disk {number}"), began);
        let acknowledged = world.ledger.book().published().0;
        world.wait_published(acknowledged + 500);
    }
    publisher.stop();
    let figures = Figures::of(world.rest());
    let refused = figures.verdict.refused;
    figures.fault(times, "full disks").fault(refused, "XADD refused with MISCONF")
}

fn refused(world: &World) -> usize {
    let book = world.ledger.book();
    book.notes
        .iter()
        .filter(|note| matches!(note, crate::ledger::Note::Refused(code) if code == "MISCONF"))
        .count()
}
