//! The server's counters that the demo shows, read from `/metrics` (Prometheus text format).

/// Sums over all labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Deliveries that ended delivered.
    pub(super) delivered: u64,
    /// Deliveries that ended failed.
    pub(super) failed: u64,
    /// Deliveries that were not made, because their config was inactive.
    pub(super) skipped: u64,
    /// Attempts.
    pub(super) attempts: u64,
    /// Retries that were scheduled.
    pub(super) retries: u64,
    /// Deliveries that went to their queue without an attempt.
    pub(super) parked: u64,
}

// === impl Numbers ===

impl Numbers {
    /// Reads the text; a counter that is not there has counted nothing yet.
    pub(super) fn parse(text: &str) -> Self {
        Self {
            delivered: sum(text, "postrider_deliveries_delivered_total"),
            failed: sum(text, "postrider_deliveries_failed_total"),
            skipped: sum(text, "postrider_deliveries_skipped_total"),
            attempts: sum(text, "postrider_attempts_total"),
            retries: sum(text, "postrider_retries_scheduled_total"),
            parked: sum(text, "postrider_deliveries_parked_total"),
        }
    }

    /// Deliveries whose fate is known.
    pub(super) fn fates(&self) -> u64 {
        self.delivered + self.failed + self.skipped
    }
}

fn sum(text: &str, name: &str) -> u64 {
    let of_name = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        (rest.starts_with(['{', ' '])).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
    });
    of_name.map(|value| value as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_their_labels_and_not_over_their_longer_namesakes() {
        let text = "# TYPE postrider_attempts_total counter\n\
            postrider_attempts_total{outcome=\"delivered\"} 7\n\
            postrider_attempts_total{outcome=\"gone\"} 2\n\
            postrider_attempts_total_other 5\n\
            postrider_deliveries_skipped_total 3\n";
        let numbers = Numbers::parse(text);
        assert_eq!((numbers.attempts, numbers.skipped, numbers.delivered), (9, 3, 0));
        assert_eq!(numbers.fates(), 3);
    }
}
