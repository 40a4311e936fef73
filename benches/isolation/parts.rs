//! The parts, each with its baseline in the same run.

use std::time::{Duration, Instant};

use crate::process::{Layout, cpu_micros, wait_until};
use crate::publisher::{preload, steady};
use crate::receiver::Receiver;
use crate::server::Server;
use crate::store::Store;
use crate::{Args, Failure, pause};

const ENDPOINTS: u32 = 100;
const BAD: u32 = 10;
/// Longest wait for a drain.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);
/// Events that warm connections and lanes up.
const WARM_UP: u64 = 5_000;
/// Rows that a config's log keeps by default.
const LOG_ROWS: u64 = 10_000;

/// A Redis, a receiver and the configs.
struct World {
    directory: tempfile::TempDir,
    store: Store,
    receiver: Receiver,
}

/// 100 endpoints under half of the capacity; then ten of them hang.
pub(crate) fn hanging(args: &Args, layout: &Layout) -> Result<(), Failure> {
    let world = World::new(layout, ENDPOINTS)?;
    let server = world.serve(layout)?;
    // Until every log is full: from then on each row that is written makes an old one go. A baseline with logs that
    // still grow would have that cheaper than what is compared with it.
    world.drain(&server, 0..ENDPOINTS, u64::from(ENDPOINTS) * LOG_ROWS)?;
    let rate = match args.rate {
        Some(rate) => rate,
        None => {
            let capacity = world.drain(&server, 0..ENDPOINTS, args.events)?;
            println!("\nhanging: capacity {capacity:.0} deliveries/s, {ENDPOINTS} endpoints");
            (capacity / 2.0) as u64
        }
    };
    let time = Duration::from_secs(args.seconds);
    let baseline = world.load(&server, ENDPOINTS, rate, time, "baseline")?;
    world.receiver.hang_below(BAD as usize);
    let hanging = world.load(&server, ENDPOINTS, rate, time, "10 hang")?;
    println!("p99 of the 90 while 10 hang: {:.2} times the baseline's (at most 2)", hanging / baseline);
    Ok(())
}

/// The throughput of 90 endpoints, without and with a backlog on each of ten dead ones, which hang.
pub(crate) fn backlog(args: &Args, layout: &Layout) -> Result<(), Failure> {
    let world = World::new(layout, ENDPOINTS)?;
    println!("\nbacklog: {} deliveries for each of {BAD} dead endpoints", args.backlog);
    world.receiver.hang_below(BAD as usize);
    let mut rates = Vec::new();
    let server = world.serve(layout)?;
    world.drain(&server, BAD..ENDPOINTS, WARM_UP)?;
    for round in 0..2 {
        rates.push(world.drain(&server, BAD..ENDPOINTS, args.events)?);
        println!("without a backlog, {}: {:.0} deliveries/s", round + 1, rates[round]);
    }
    let before = Instant::now();
    for number in 0..BAD {
        world.store.put_backlog(number, args.backlog)?;
    }
    println!("the backlogs were written in {:.0?}", before.elapsed());
    for round in 2..4 {
        rates.push(world.drain(&server, BAD..ENDPOINTS, args.events)?);
        println!("with the backlogs, {}: {:.0} deliveries/s", round - 1, rates[round]);
    }
    let waiting: u64 = (0..BAD).map(|n| world.store.backlog_of(n)).sum::<Result<u64, Failure>>()?;
    let ratio = (rates[2] + rates[3]) / (rates[0] + rates[1]);
    println!("still waiting: {waiting}; throughput {ratio:.2} of the baseline's (at least 0.95)");
    Ok(())
}

/// Many configs, a tenth of which hang, under a steady load over all of them.
pub(crate) fn memory(args: &Args, layout: &Layout) -> Result<(), Failure> {
    let world = World::new(layout, args.configs)?;
    let rate = args.rate.unwrap_or(2_000);
    println!("\nmemory: {} configs, {} of them hang, {rate} events/s", args.configs, args.configs / 10);
    let server = world.serve(layout)?;
    println!("after the start: {:.0} MiB", server.peak_mib()?);
    let time = Duration::from_secs(args.seconds);
    let hanging = usize::try_from(args.configs / 10)?;
    world.receiver.keep_times_from(hanging);
    let baseline = world.load_from(&server, args.configs, hanging, rate, time, "baseline")?;
    world.receiver.hang_below(hanging);
    let with = world.load_from(&server, args.configs, hanging, rate, time, "a tenth hangs")?;
    println!("p99 of the others: {:.2} times the baseline's", with / baseline);
    println!("most memory: {:.0} MiB (at most 300)", server.peak_mib()?);
    Ok(())
}

/// The times in the order of publishing, each second's sorted.
fn by_second(times: &[(u64, u32)]) -> Vec<Vec<u32>> {
    let first = times.iter().map(|(published, _)| *published).min().unwrap_or(0);
    let mut seconds: Vec<Vec<u32>> = Vec::new();
    for (published, took) in times {
        let second = usize::try_from((published - first) / 1_000_000).unwrap_or(0);
        seconds.resize_with(seconds.len().max(second + 1), Vec::new);
        seconds[second].push(*took);
    }
    seconds.iter_mut().for_each(|second| second.sort_unstable());
    seconds
}

/// The 99th percentile of sorted microseconds, in ms.
fn p99(sorted: &[u32]) -> f64 {
    f64::from(sorted.get(sorted.len() * 99 / 100).copied().unwrap_or(0)) / 1_000.0
}

// === impl World ===

impl World {
    fn new(layout: &Layout, configs: u32) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        let store = Store::start(&layout.receiver, directory.path())?;
        let receiver = Receiver::start()?;
        store.put_configs(configs, receiver.port)?;
        Ok(Self { directory, store, receiver })
    }

    fn serve(&self, layout: &Layout) -> Result<Server, Failure> {
        Server::start(layout, &self.store, self.directory.path())
    }

    /// Adds events as fast as Redis takes them and waits until they arrived; gives deliveries a second.
    fn drain(&self, server: &Server, configs: std::ops::Range<u32>, events: u64) -> Result<f64, Failure> {
        let before = self.receiver.arrived();
        let arrived = || self.receiver.arrived() - before;
        let (store, sender) = (&self.store, configs);
        let began = Instant::now();
        preload(store, sender, events)?;
        wait_until(DRAIN_LIMIT, || arrived() >= events)
            .map_err(|error| server.with_log(format!("{} of {events}: {error}", arrived()).into()))?;
        let took = began.elapsed().as_secs_f64();
        Ok(events as f64 / took)
    }

    fn load(
        &self,
        server: &Server,
        configs: u32,
        rate: u64,
        time: Duration,
        what: &str,
    ) -> Result<f64, Failure> {
        self.load_from(server, configs, BAD as usize, rate, time, what)
    }

    /// A steady load over all configs; gives the 99th percentile from publish to arrival in ms, of the endpoints
    /// from `from` on.
    fn load_from(
        &self,
        server: &Server,
        configs: u32,
        from: usize,
        rate: u64,
        time: Duration,
        what: &str,
    ) -> Result<f64, Failure> {
        self.receiver.keep_times_from(from);
        let (cpu, before) = (server.cpu()?, self.receiver.arrived());
        self.store.reset_stalls()?;
        let redis_cpu = self.store.cpu()?;
        let own_cpu = cpu_micros(std::process::id())?;
        let parked = server.metric("postrider_deliveries_parked_total")?;
        let (reached, slowest) = steady(&self.store, &self.receiver, 0..configs, rate, time)?;
        pause(Duration::from_secs(3));
        println!(
            "{what}: cores: server {:.2}, Redis {:.2}, receiver and producer {:.2}; Redis: {}",
            (server.cpu()? - cpu).as_secs_f64() / time.as_secs_f64(),
            (self.store.cpu()? - redis_cpu).as_secs_f64() / time.as_secs_f64(),
            (cpu_micros(std::process::id())? - own_cpu) as f64 / 1e6 / time.as_secs_f64(),
            self.store.stalls()?,
        );
        let seconds = by_second(&self.receiver.times());
        let mut times: Vec<u32> = seconds.iter().flatten().copied().collect();
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            f64::from(times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or(0)) / 1_000.0
        };
        let mut each: Vec<f64> = seconds.iter().map(|times| p99(times)).collect();
        let shown: Vec<String> = each.iter().map(|ms| format!("{ms:.0}")).collect();
        each.sort_by(f64::total_cmp);
        let middle = each.get(each.len() / 2).copied().unwrap_or(0.0);
        println!("{what}: p99 by the second of publishing, ms: {} (median {middle:.1})", shown.join(" "));
        println!(
            "{what:<14} {reached:>7.0} events/s  {:>8} arrived  p50 {:>7.2} ms  p99 {:>8.2} ms  p99.9 {:>8.2} ms  \
             max {:>8.1} ms  {:.2} cores  slowest XADD {:.1} ms  \
             {:.0} parked",
            self.receiver.arrived() - before,
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            (server.cpu()? - cpu).as_secs_f64() / time.as_secs_f64(),
            slowest.as_secs_f64() * 1_000.0,
            server.metric("postrider_deliveries_parked_total")? - parked,
        );
        Ok(at(0.99))
    }
}
