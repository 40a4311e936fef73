//! Clocks that differ: Redis's is the only one that schedules, so replicas' may lie.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::Form;
use crate::figures::Figures;
use crate::receivers::Act;
use crate::world::World;

/// Two replicas, one 2.5 s ahead and one 2.5 s behind, one of them killed in the middle. Needs libfaketime.
pub(crate) fn apart(_form: Form) -> Figures {
    let library = faketime().expect("libfaketime is installed (Debian: apt-get install libfaketime)");
    let mut world = World::new(2, &[]);
    world.behave(1, |asked| Act::Answer(if asked.nth <= 2 { 500 } else { 200 }, Duration::from_millis(20)));
    let start = |world: &mut World, offset: &str| {
        world.launch.environment = vec![
            ("LD_PRELOAD".into(), library.display().to_string()),
            ("FAKETIME".into(), offset.into()),
            // Only the wall clock is set wrong: a monotonic one cannot be.
            ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
        ];
        world.start_replicas(1);
    };
    start(&mut world, "+2.5s");
    start(&mut world, "-2.5s");
    let apart = log_time(&world.replicas[0].text()) - log_time(&world.replicas[1].text());
    let publisher = world.publish(world.plan(1_000));
    world.wait_arrivals(10_000);
    let began = Instant::now();
    world.replicas.remove(0).kill();
    world.ledger.fault_since("kill", began);
    start(&mut world, "+2.5s");
    world.wait_arrivals(5_000);
    publisher.stop();
    Figures::of(world.rest())
        .fault(usize::try_from(apart.max(0)).unwrap_or(0), "s between the clocks")
        .fault(1, "kill of the one ahead")
}

fn faketime() -> Option<PathBuf> {
    let folders =
        ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime"];
    folders.iter().map(|folder| PathBuf::from(folder).join("libfaketime.so.1")).find(|path| path.exists())
}

/// The second of the day of the first line of a log, which begins with the time.
fn log_time(text: &str) -> i64 {
    let time = text.split('T').nth(1).and_then(|rest| rest.get(..8)).unwrap_or("0:0:0");
    time.split(':').filter_map(|part| part.parse::<i64>().ok()).fold(0, |sum, part| sum * 60 + part)
}
