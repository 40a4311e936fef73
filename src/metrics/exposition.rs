//! Text for Prometheus that is written anew at each scrape: gauges whose series come and go, which the recorder would
//! go on showing after they have become untrue.
//!
//! Owns: the text exposition format, version 0.0.4. May use: `domain` and the names of this room.

use std::fmt::Write as _;

use super::names::{COUNTERS, GAUGES, PROCESS};

/// The text of one scrape, as far as it is written here.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

// === impl Exposition ===

impl Exposition {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the samples of a declared metric. All its samples follow before the next one begins.
    pub fn begin(&mut self, name: &str) {
        let of = |list: &'static [(&str, &str)]| list.iter().find(|(known, _)| *known == name);
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        if let Some((_, meaning)) = of(GAUGES).or_else(|| of(PROCESS)).or_else(|| of(COUNTERS)) {
            // Writing to a String cannot fail.
            let _ = write!(self.text, "# HELP {name} {meaning}\n# TYPE {name} {kind}\n");
        }
    }

    /// One sample; `labels` as [`label`] makes them, joined by commas, or nothing.
    pub fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = if labels.is_empty() {
            writeln!(self.text, "{name} {value}")
        } else {
            writeln!(self.text, "{name}{{{labels}}} {value}")
        };
    }

    /// A metric with one sample.
    pub fn single(&mut self, name: &str, value: f64) {
        self.begin(name);
        self.sample(name, "", value);
    }

    /// What was written.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

/// `name="value"`, the value escaped as the format wants it.
#[must_use]
pub fn label(name: &str, value: impl std::fmt::Display) -> String {
    let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_follow_their_metric_and_labels_are_escaped() {
        let mut out = Exposition::new();
        out.begin("postrider_due_configs");
        out.sample("postrider_due_configs", &label("shard", 3), 2.0);
        out.sample("postrider_due_configs", &label("shard", "a\"\\\n"), 0.5);
        out.single("postrider_breakers_open", 1.0);
        let text = out.into_text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("# HELP postrider_due_configs "), "{text}");
        assert_eq!(lines[1], "# TYPE postrider_due_configs gauge");
        assert_eq!(lines[2], "postrider_due_configs{shard=\"3\"} 2");
        assert_eq!(lines[3], "postrider_due_configs{shard=\"a\\\"\\\\\\n\"} 0.5");
        assert_eq!(lines[6], "postrider_breakers_open 1");
    }
}
