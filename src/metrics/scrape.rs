//! One scrape: what the recorder holds, and what is written anew each time.

use std::sync::Arc;
use std::time::Instant;

use metrics_exporter_prometheus::PrometheusHandle;

use super::board::Board;
use super::configs::ConfigMeters;
use super::exposition::{Exposition, label};
use super::process::ProcessMetrics;

/// What a replica shows Prometheus. Cloning shares it.
#[derive(Clone)]
pub struct Scrape {
    prometheus: PrometheusHandle,
    process: Arc<ProcessMetrics>,
    /// Each config's attempts of the last minutes.
    pub configs: Arc<ConfigMeters>,
    /// What this replica reads from Redis for all.
    pub board: Arc<Board>,
}

// === impl Scrape ===

impl Scrape {
    /// Of a process that starts now, with what the recorder of `prometheus` holds.
    #[must_use]
    pub fn new(prometheus: PrometheusHandle) -> Self {
        Self {
            prometheus,
            process: Arc::new(ProcessMetrics::starting()),
            configs: Arc::default(),
            board: Arc::default(),
        }
    }

    /// What Prometheus gets, in the text exposition format, version 0.0.4. `conditions` of readiness: each with
    /// whether it holds.
    #[must_use]
    pub fn text(&self, conditions: &[(&'static str, bool)]) -> String {
        let mut out = Exposition::new();
        if !conditions.is_empty() {
            out.begin("postrider_ready");
        }
        for (condition, holds) in conditions {
            out.sample("postrider_ready", &label("condition", condition), f64::from(u8::from(*holds)));
        }
        self.configs.write(&mut out);
        self.board.write(Instant::now(), &mut out);
        self.process.write(&mut out);
        self.prometheus.render() + &out.into_text()
    }
}
