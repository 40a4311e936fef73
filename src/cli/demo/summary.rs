//! What came of it all: read back from the log, beside what the receivers saw.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::super::error::CliError;
use super::super::output::{Output, TextTable};
use super::endpoints::{Endpoint, Endpoints};
use super::numbers::Numbers;
use super::replica::Replica;
use super::{ORGANISATION, Stage};
use crate::domain::clock::UnixMillis;
use crate::redis::keys::ShardKeys;
use crate::redis::log_tally::{LogTally, tally};

/// The demo's result. Counts of deliveries come from the log; `skipped` from the server's counter, for what is
/// not made leaves no row.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    events: u32,
    deliveries: u64,
    delivered: u64,
    retried: u64,
    failed: BTreeMap<&'static str, u64>,
    skipped: u64,
    attempts: u64,
    /// Whether `delivered`, `failed` and `skipped` add up to `deliveries`.
    pub(super) accounted_for: bool,
    /// Deliveries without a fate, or with one too many.
    pub(super) unaccounted: u64,
    duplicates_seen: u64,
    bad_signatures: u64,
    publish_to_arrival_ms: Quantiles,
    publish_seconds: f64,
    delivery_seconds: f64,
    deliveries_per_second: f64,
    endpoints: Vec<EndpointSummary>,
}

/// One endpoint's part.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointSummary {
    name: &'static str,
    behaviour: &'static str,
    delivered: u64,
    retried: u64,
    failed: BTreeMap<&'static str, u64>,
    attempts: u64,
    duplicates_seen: u64,
    publish_to_arrival_ms: Quantiles,
}

/// Of a list of milliseconds; 0 where it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Quantiles {
    p50: u64,
    p99: u64,
}

// === impl Summary ===

impl Summary {
    /// Reads every endpoint's log.
    pub(super) async fn read(stage: &Stage, events: u32, numbers: &Numbers) -> Result<Self, CliError> {
        let deliveries = u64::from(events) * stage.endpoints.count();
        let mut summary = Self { events, deliveries, skipped: numbers.skipped, ..Self::default() };
        for endpoint in stage.endpoints.iter() {
            let Some(config) = endpoint.config else { continue };
            let tally = tally(&stage.link, &stage.shards, &stage.organisation, config)
                .await
                .map_err(|error| CliError::Failure(error.to_string()))?;
            summary.add(endpoint, &tally);
        }
        let fates = summary.delivered + summary.failed.values().sum::<u64>() + summary.skipped;
        summary.unaccounted = deliveries.abs_diff(fates);
        summary.accounted_for = summary.unaccounted == 0;
        Ok(summary)
    }

    fn add(&mut self, endpoint: &Endpoint, tally: &LogTally) {
        let stats = endpoint.receiver.stats();
        let failed: BTreeMap<&'static str, u64> =
            tally.failed.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        self.delivered += tally.delivered;
        self.retried += tally.retried;
        self.attempts += tally.attempts;
        failed.iter().for_each(|(reason, count)| *self.failed.entry(reason).or_default() += count);
        self.duplicates_seen += stats.duplicates();
        self.bad_signatures += stats.bad_signature();
        let latencies = endpoint.arrivals(|arrivals| Quantiles::of(&arrivals.latencies_ms));
        if endpoint.healthy {
            self.publish_to_arrival_ms = latencies;
        }
        self.endpoints.push(EndpointSummary {
            name: endpoint.name,
            behaviour: endpoint.behaviour,
            delivered: tally.delivered,
            retried: tally.retried,
            failed,
            attempts: tally.attempts,
            duplicates_seen: stats.duplicates(),
            publish_to_arrival_ms: latencies,
        });
    }

    /// Adds the times: the rate is what was delivered from the first event published to the last one processed,
    /// retries and their delays included.
    pub(super) fn timed(mut self, publishing: Duration, from: UnixMillis, endpoints: &Endpoints) -> Self {
        let last = endpoints.iter().map(|endpoint| endpoint.arrivals(|arrivals| arrivals.last)).max();
        let seconds = last.unwrap_or_default().since(from).as_secs_f64();
        self.publish_seconds = rounded(publishing.as_secs_f64());
        self.delivery_seconds = rounded(seconds);
        self.deliveries_per_second = (self.delivered as f64 / seconds.max(0.001)).round();
        self
    }

    /// For people.
    pub(super) fn print(&self, output: &mut Output) -> Result<(), CliError> {
        let mut table = TextTable::new(&[
            "ENDPOINT",
            "DELIVERED",
            "RETRIED",
            "FAILED",
            "ATTEMPTS",
            "DUPLICATES",
            "P50",
            "P99",
            "BEHAVIOUR",
        ]);
        for endpoint in &self.endpoints {
            let Quantiles { p50, p99 } = endpoint.publish_to_arrival_ms;
            table.row([
                endpoint.name.to_owned(),
                endpoint.delivered.to_string(),
                endpoint.retried.to_string(),
                reasons(&endpoint.failed),
                endpoint.attempts.to_string(),
                endpoint.duplicates_seen.to_string(),
                format!("{p50} ms"),
                format!("{p99} ms"),
                endpoint.behaviour.to_owned(),
            ]);
        }
        let Quantiles { p50, p99 } = self.publish_to_arrival_ms;
        output.line(format_args!(
            "\n{} events published in {} s, read back from the log of each endpoint:\n",
            self.events, self.publish_seconds
        ))?;
        output.table(&table)?;
        output.line(format_args!(
            "\ndelivered     {} of {} deliveries, {} of all after a retry",
            self.delivered, self.deliveries, self.retried
        ))?;
        output.line(format_args!("failed        {}", reasons(&self.failed)))?;
        output.line(format_args!("not made      {} (the config was disabled by its 410)", self.skipped))?;
        output.line(format_args!(
            "receivers     {} duplicates, {} bad signatures",
            self.duplicates_seen, self.bad_signatures
        ))?;
        output.line(format_args!("arrival       p50 {p50} ms, p99 {p99} ms after publishing (healthy endpoint, all events published at once)"))?;
        output.line(format_args!(
            "rate          {} deliveries a second over {} s, retries included",
            self.deliveries_per_second, self.delivery_seconds
        ))?;
        if self.accounted_for {
            output.line("every event is accounted for")?;
        } else {
            output.line(format_args!("NOT ACCOUNTED FOR: {} deliveries", self.unaccounted))?;
        }
        Ok(())
    }
}

// === impl Quantiles ===

impl Quantiles {
    fn of(milliseconds: &[u64]) -> Self {
        let mut sorted = milliseconds.to_vec();
        sorted.sort_unstable();
        let at = |share: f64| {
            let rank = (sorted.len() as f64 * share).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Self { p50: at(0.5), p99: at(0.99) }
    }
}

fn reasons(failed: &BTreeMap<&'static str, u64>) -> String {
    if failed.is_empty() {
        return "none".into();
    }
    failed.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

/// Lines to paste while the demo stays up.
pub(super) fn print_what_to_try(
    output: &mut Output,
    replica: &Replica,
    stage: &Stage,
) -> Result<(), CliError> {
    let server = replica.admin().as_str().trim_end_matches('/');
    let (operator, token) = (replica.operator(), stage.token.expose());
    let flaky = stage.endpoints.iter().find(|endpoint| endpoint.name == "flaky");
    let flaky = flaky.and_then(|endpoint| endpoint.config).map(|id| id.to_string()).unwrap_or_default();
    let stream = stage.shards.first().map(ShardKeys::events).unwrap_or_default();
    let socket = replica.data_dir().join("redis/redis.sock");
    let socket = socket.display();
    let curl = r#"curl -s -H "Authorization: Bearer $POSTRIDER_TOKEN""#;
    let api = "$POSTRIDER_URL/api/v2/admin/webhooks";
    let data = r#"{"user":{"id":"u1"}}"#;
    let entry = format!("organisationId {ORGANISATION} event reward.earned data '{data}'");
    output.line(format_args!(
        "\nIt stays up: the admin API at {server}, metrics at {operator}metrics. To paste:\n"
    ))?;
    output.line(format_args!("export POSTRIDER_URL={server} POSTRIDER_TOKEN={token}"))?;
    output.line(format_args!("{curl} {api}/configs"))?;
    output.line(format_args!("{curl} \"{api}/logs?webhookConfigId={flaky}&status=failed&limit=2\""))?;
    output.line(format_args!("{curl} -d '{{\"event\":\"reward.earned\",\"data\":{data}}}' {api}/events"))?;
    output.line(format_args!("redis-cli -s '{socket}' XADD '{stream}' '*' {entry}"))?;
    output.line("\nCtrl-C stops it and removes its data.")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        assert_eq!(Quantiles::of(&[]), Quantiles { p50: 0, p99: 0 });
        assert_eq!(Quantiles::of(&[7]), Quantiles { p50: 7, p99: 7 });
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(Quantiles::of(&hundred), Quantiles { p50: 50, p99: 99 });
    }
}
