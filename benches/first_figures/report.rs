//! Rows, medians and ratios, as a table or as JSON.

use serde::Serialize;

use crate::process::Layout;

/// One measurement of one part.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// `drain, ...` or `raw client`.
    pub(crate) what: String,
    /// Events or requests.
    pub(crate) requests: u64,
    /// Requests beyond these that the receiver saw.
    pub(crate) extra: u64,
    /// Requests per second between the first hundredth and the last arrival.
    pub(crate) per_second: f64,
    /// Requests per second from the start of the process to the last arrival.
    pub(crate) per_second_from_start: f64,
    /// From the start of the process to the first arrival.
    pub(crate) start_to_first_ms: f64,
    /// CPU time of the sender per request, its start included.
    pub(crate) sender_cpu_micros: f64,
    /// CPU time of Redis per event, from the start of the server until all is acknowledged.
    pub(crate) redis_cpu_micros: Option<f64>,
    /// CPU time of the receiver per request.
    pub(crate) receiver_cpu_micros: f64,
    /// CPU time of the sender over the time from its start to the last arrival.
    pub(crate) sender_cores: f64,
    /// Connections that were opened in all.
    pub(crate) connections: u64,
    /// Most connections that were open at once.
    pub(crate) connections_peak: u64,
    /// Body bytes of the first request.
    pub(crate) body_bytes: u64,
    /// Requests whose signature was checked and right.
    pub(crate) verified: u64,
}

/// The parts of one run, in the order in which they ran.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Run {
    /// 1 is the first.
    pub(crate) run: usize,
    /// `/proc/loadavg` before it: other work on the machine makes the figures worthless.
    pub(crate) load_average: String,
    /// Its rows.
    pub(crate) rows: Vec<Row>,
}

/// Medians over the runs of one part.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Median {
    what: String,
    per_second: f64,
    per_second_from_start: f64,
    sender_cpu_micros: f64,
    redis_cpu_micros: Option<f64>,
    receiver_cpu_micros: f64,
    /// Median over the runs of the part's rate divided by the raw client's in the same run.
    ratio: Option<f64>,
    /// The same of the CPU time of the sender.
    cpu_ratio: Option<f64>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    cores: usize,
    processor: String,
    pinning: String,
    runs: Vec<Run>,
    medians: Vec<Median>,
}

/// The name of the raw client's rows.
pub(crate) const RAW: &str = "raw client";

const HEAD: &str = "part                    req/s   from start  first ms  CPU us/req: sender  redis  receiver  cores  conns (peak)";

// === impl Run ===

impl Run {
    /// Ratio of a value to the raw client's, when both parts ran.
    fn ratio(&self, what: &str, value: impl Fn(&Row) -> f64) -> Option<f64> {
        let of = |name: &str| self.rows.iter().find(|row| row.what == name).map(&value);
        (what != RAW).then_some(())?;
        Some(of(what)? / of(RAW)?)
    }
}

// === impl Report ===

impl Report {
    /// Computes the medians.
    pub(crate) fn new(layout: &Layout, runs: Vec<Run>) -> Self {
        let mut names: Vec<&str> = Vec::new();
        for row in runs.iter().flat_map(|run| &run.rows) {
            if !names.contains(&row.what.as_str()) {
                names.push(&row.what);
            }
        }
        let medians = names.iter().map(|what| medians(&runs, what)).collect();
        Self { cores: layout.cores, processor: processor(), pinning: layout.words.clone(), medians, runs }
    }

    /// The table.
    pub(crate) fn print(&self) {
        println!("{} cores, {}; {}", self.cores, self.processor, self.pinning);
        for run in &self.runs {
            println!("\nrun {} (load average before it {})\n{HEAD}", run.run, run.load_average);
            run.rows.iter().for_each(print_row);
        }
        println!(
            "\nmedians                 req/s   from start  CPU us/req: sender  redis  receiver   ratio  CPU ratio"
        );
        for median in &self.medians {
            println!(
                "{:<20} {:>8.0} {:>12.0} {:>19.1} {:>6} {:>9.1} {:>7} {:>10}",
                median.what,
                median.per_second,
                median.per_second_from_start,
                median.sender_cpu_micros,
                shown(median.redis_cpu_micros, 1),
                median.receiver_cpu_micros,
                shown(median.ratio, 2),
                shown(median.cpu_ratio, 2),
            );
        }
        println!("ratio: to the raw client of the same run (medians of the runs' ratios)");
    }
}

fn print_row(row: &Row) {
    println!(
        "{:<20} {:>8.0} {:>12.0} {:>9.0} {:>19.1} {:>6} {:>9.1} {:>6.2} {:>5} ({})",
        row.what,
        row.per_second,
        row.per_second_from_start,
        row.start_to_first_ms,
        row.sender_cpu_micros,
        shown(row.redis_cpu_micros, 1),
        row.receiver_cpu_micros,
        row.sender_cores,
        row.connections,
        row.connections_peak,
    );
    if row.extra > 0 {
        println!("  {} requests more than events: duplicates", row.extra);
    }
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn medians(runs: &[Run], what: &str) -> Median {
    let rows: Vec<&Row> = runs.iter().flat_map(|run| &run.rows).filter(|row| row.what == what).collect();
    let of = |value: fn(&Row) -> f64| median(rows.iter().map(|row| value(row)).collect()).unwrap_or(f64::NAN);
    Median {
        what: what.to_owned(),
        per_second: of(|row| row.per_second),
        per_second_from_start: of(|row| row.per_second_from_start),
        sender_cpu_micros: of(|row| row.sender_cpu_micros),
        redis_cpu_micros: median(rows.iter().filter_map(|row| row.redis_cpu_micros).collect()),
        receiver_cpu_micros: of(|row| row.receiver_cpu_micros),
        ratio: median(runs.iter().filter_map(|run| run.ratio(what, |row| row.per_second)).collect()),
        cpu_ratio: median(
            runs.iter().filter_map(|run| run.ratio(what, |row| row.sender_cpu_micros)).collect(),
        ),
    }
}

/// The middle value; of an even number the mean of the middle two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some((values[values.len() / 2 - 1] + upper) / 2.0) }
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(": ")).map(|(_, name)| name.to_owned());
    name.unwrap_or_else(|| "unknown processor".to_owned())
}
