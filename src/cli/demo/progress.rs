//! The demo's progress bars, on stderr and only where that is a terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::numbers::Numbers;

/// Two bars: events published, deliveries with a fate.
pub(super) struct Progress {
    published: ProgressBar,
    delivered: ProgressBar,
}

// === impl Progress ===

impl Progress {
    /// Shows both, empty.
    pub(super) fn new(events: u32, endpoints: u64) -> Self {
        let bars = MultiProgress::new();
        let bar = |length: u64, label: &'static str| {
            let bar = bars.add(ProgressBar::new(length)).with_prefix(label);
            // The template is a constant; without it the bar has indicatif's own style.
            if let Ok(style) =
                ProgressStyle::with_template("{prefix:>10} {bar:32} {human_pos}/{human_len} {msg}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        };
        let events = u64::from(events);
        Self { published: bar(events, "published"), delivered: bar(events * endpoints, "accounted") }
    }

    /// Counts published events.
    pub(super) fn published(&self, count: u64) {
        self.published.inc(count);
    }

    /// Shows the server's counters.
    pub(super) fn show(&self, numbers: &Numbers) {
        let Numbers { delivered, failed, skipped, attempts, retries, parked } = numbers;
        self.delivered.set_position(numbers.fates());
        self.delivered.set_message(format!(
            "delivered {delivered}  failed {failed}  skipped {skipped}  attempts {attempts}  retries {retries}  parked {parked}"
        ));
    }

    /// Leaves the bars as they are and ends them.
    pub(super) fn finish(&self) {
        self.published.abandon();
        self.delivered.abandon();
    }
}
