//! What a scenario gives: its figures, and what is wrong with them.

use std::fmt;
use std::time::Duration;

use crate::judge::Verdict;

/// The figures of one scenario.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// What was done, with how often: shows that the fault happened.
    pub(crate) faults: Vec<String>,
    pub(crate) verdict: Verdict,
    /// Until everything was at rest after the last fault.
    pub(crate) rest: Duration,
    pub(crate) notes: Vec<String>,
    complaints: Vec<String>,
}

// === impl Figures ===

impl Figures {
    pub(crate) fn of((verdict, rest): (Verdict, Duration)) -> Self {
        Self { complaints: verdict.complaints(), verdict, rest, ..Self::default() }
    }

    /// Says what was done; it must have been done at least once.
    pub(crate) fn fault(mut self, count: usize, what: &str) -> Self {
        assert!(count > 0, "the fault did not happen: no {what}");
        self.faults.push(format!("{count} {what}"));
        self
    }

    /// Says something more.
    pub(crate) fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// A promise beyond the general ones.
    pub(crate) fn promise(mut self, kept: bool, broken: impl Into<String>) -> Self {
        if !kept {
            self.complaints.push(broken.into());
        }
        self
    }

    /// Itself, unless something is wrong with it.
    pub(crate) fn judged(self) -> Result<Self, String> {
        if self.complaints.is_empty() {
            return Ok(self);
        }
        Err(format!("the promise is broken: {}; {self}", self.complaints.join("; ")))
    }

    fn failed(&self) -> String {
        let counts = self.verdict.failed.iter().map(|(reason, count)| format!("{count} {reason}"));
        counts.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = &self.verdict;
        write!(f, "{}; ", self.faults.join(", "))?;
        write!(f, "{} acknowledged, {} taken, ", verdict.acknowledged, verdict.taken)?;
        write!(f, "lost {}, duplicates {}", verdict.lost.len(), verdict.duplicates)?;
        if verdict.refused + verdict.unknown > 0 {
            let (unknown, arrived) = (verdict.unknown, verdict.unknown_arrived);
            write!(f, "; {} refused, {unknown} unknown ({arrived} arrived)", verdict.refused)?;
        }
        if !verdict.failed.is_empty() {
            write!(f, "; failed: {}", self.failed())?;
        }
        if verdict.duplicates > 0 {
            let most = verdict.by_fault.iter().max_by_key(|(_, count)| **count);
            let most = most.map_or(String::new(), |(what, count)| format!("{count} by '{what}'"));
            write!(f, "; most duplicates {most}")?;
        }
        write!(f, "; at rest after {:.1} s", self.rest.as_secs_f64())?;
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// The table of docs/RELIABILITY.md.
pub(crate) fn table(all: &[(&'static str, &Result<Figures, String>)]) -> String {
    let mut text = String::from(
        "| scenario | what was done | acknowledged | requests | lost | duplicates | failed | at rest after | more |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, figures) in all {
        let Ok(figures) = figures else {
            text.push_str(&format!("| `{name}` | RED | | | | | | | |\n"));
            continue;
        };
        let verdict = &figures.verdict;
        let mut more = figures.notes.clone();
        if verdict.refused + verdict.unknown > 0 {
            more.insert(
                0,
                format!(
                    "{} refused, {} unknown of which {} arrived",
                    verdict.refused, verdict.unknown, verdict.unknown_arrived
                ),
            );
        }
        text.push_str(&format!(
            "| `{name}` | {} | {} | {} | {} | {} | {} | {:.1} s | {} |\n",
            figures.faults.join(", "),
            verdict.acknowledged,
            verdict.requests,
            verdict.lost.len(),
            verdict.duplicates,
            figures.failed(),
            figures.rest.as_secs_f64(),
            more.join("; "),
        ));
    }
    text
}
