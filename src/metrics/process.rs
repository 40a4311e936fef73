//! The process itself as the system sees it, under the names that Prometheus's own clients use. Linux only: elsewhere
//! nothing is written.

use super::exposition::Exposition;
use crate::domain::clock::Clock;

/// What does not change while the process runs.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    started: f64,
}

// === impl ProcessMetrics ===

impl ProcessMetrics {
    /// Of a process that starts now.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // Milliseconds since 1970 stay below 2^52.
    pub(super) fn starting() -> Self {
        Self { started: Clock::default().now().0 as f64 / 1_000.0 }
    }

    /// Writes what the system says now.
    pub(super) fn write(&self, out: &mut Exposition) {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}"));
        let Ok(status) = read("status") else { return };
        out.single("process_start_time_seconds", self.started);
        out.single("process_cpu_seconds_total", cpu_seconds());
        for (name, field, unit) in [
            ("process_resident_memory_bytes", "VmRSS:", 1_024.0),
            ("process_virtual_memory_bytes", "VmSize:", 1_024.0),
            ("process_threads", "Threads:", 1.0),
        ] {
            if let Some(value) = number_after(&status, field) {
                out.single(name, value * unit);
            }
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            #[allow(clippy::cast_precision_loss)]
            out.single("process_open_fds", open.count() as f64);
        }
        let limits = read("limits").unwrap_or_default();
        if let Some(most) = number_after(&limits, "Max open files") {
            out.single("process_max_fds", most);
        }
    }
}

/// Processor time of all threads.
#[allow(clippy::cast_precision_loss)]
fn cpu_seconds() -> f64 {
    use rustix::time::{ClockId, clock_gettime};
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// The first number of the line that begins with `start`.
fn number_after(text: &str, start: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(start))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time_memory_and_files() {
        let mut out = Exposition::new();
        ProcessMetrics::starting().write(&mut out);
        let text = out.into_text();
        for (name, _) in super::super::PROCESS {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value: f64 = line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap();
            assert!(value > 0.0, "{name} {value}");
        }
    }
}
