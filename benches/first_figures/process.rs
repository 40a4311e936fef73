//! Children: started pinned where `taskset` is there, heard line by line, their CPU time read from `/proc`,
//! ended by their pid, and never left behind.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::Failure;

/// Which cores the sender (client or dispatcher) gets, and which the receiver and Redis.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Cores of what is measured; empty: not pinned.
    pub(crate) sender: Vec<usize>,
    /// Cores of the receiver and of Redis; empty: not pinned.
    pub(crate) receiver: Vec<usize>,
    /// Cores that may be used at all.
    pub(crate) cores: usize,
    /// How it is, for the report.
    pub(crate) words: String,
}

/// A child that speaks in lines and ends when its stdin does.
pub(crate) struct Spoken {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Its process id.
    pub(crate) pid: u32,
}

/// A program that knows nothing of this one, under a shell that ends it when this process is gone.
pub(crate) struct Guarded {
    /// Held for its end: closing its stdin ends the program.
    _shell: Spoken,
    /// The program's own process id.
    pub(crate) pid: u32,
}

/// SIGINT is ignored by the shell and its `cat`, so that Ctrl-C cannot end the guard before the guarded.
const GUARD: &str = r#"trap "" INT; log=$1; shift; "$@" >"$log" 2>&1 </dev/null & pid=$!; echo "$pid"
cat >/dev/null; kill -9 "$pid" 2>/dev/null; wait"#;

// === impl Layout ===

impl Layout {
    /// Half of the cores for each side, from four cores up and with `taskset`; else nothing is pinned.
    pub(crate) fn find(pin: bool) -> Self {
        let cores = allowed_cores();
        let loose = |words: &str| Self {
            sender: Vec::new(),
            receiver: Vec::new(),
            cores: cores.len(),
            words: words.to_owned(),
        };
        if !pin {
            return loose("not pinned (--no-pin)");
        }
        if cores.len() < 2 {
            return loose("not pinned: fewer than 2 cores");
        }
        let tool = Command::new("taskset").arg("--version").stdout(Stdio::null()).status();
        if !tool.is_ok_and(|status| status.success()) {
            return loose("not pinned: taskset (util-linux) is not installed");
        }
        let (sender, receiver) = cores.split_at(cores.len() / 2);
        Self {
            sender: sender.to_vec(),
            receiver: receiver.to_vec(),
            cores: cores.len(),
            words: format!(
                "sender on cores {}, receiver and Redis on cores {}",
                list(sender),
                list(receiver)
            ),
        }
    }
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// The cores in `Cpus_allowed_list` of `/proc/self/status` (proc(5)).
fn allowed_cores() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ranges = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let range = |text: &str| {
        let (from, to) = text.trim().split_once('-').unwrap_or((text.trim(), text.trim()));
        Some(from.parse::<usize>().ok()?..=to.parse::<usize>().ok()?)
    };
    ranges.split(',').filter_map(range).flatten().collect()
}

fn pinned(cores: &[usize], program: &Path) -> Vec<std::ffi::OsString> {
    let mut words: Vec<std::ffi::OsString> = Vec::new();
    if !cores.is_empty() {
        words.extend(["taskset".into(), "-c".into(), list(cores).into()]);
    }
    words.push(program.into());
    words
}

// === impl Spoken ===

impl Spoken {
    /// Starts this very binary again with other arguments.
    pub(crate) fn this_binary(cores: &[usize], args: &[String]) -> Result<Self, Failure> {
        let words = pinned(cores, &std::env::current_exe()?);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(args);
        Self::start(command)
    }

    fn start(mut command: Command) -> Result<Self, Failure> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("a child without stdout")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        // taskset becomes the program that it starts, so the id stays.
        let pid = child.id();
        Ok(Self { child, stdin, lines, pid })
    }

    /// The next line, within `limit`.
    pub(crate) fn line(&self, limit: Duration) -> Result<String, Failure> {
        self.lines.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("a child said nothing for {limit:?}").into(),
            RecvTimeoutError::Disconnected => "a child ended early".into(),
        })
    }

    /// Waits for exactly this line.
    pub(crate) fn expect(&self, wanted: &str, limit: Duration) -> Result<(), Failure> {
        match self.line(limit).map_err(|error| format!("waiting for '{wanted}': {error}"))? {
            line if line == wanted => Ok(()),
            other => Err(format!("a child said '{other}' instead of '{wanted}'").into()),
        }
    }

    /// Sends a line.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), Failure> {
        let stdin = self.stdin.as_mut().ok_or("the child's stdin is closed")?;
        writeln!(stdin, "{line}")?;
        Ok(())
    }
}

impl Drop for Spoken {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It ends by itself now; the kill is for one that hangs, and harmless when it has ended.
        if wait_until(Duration::from_secs(5), || !matches!(self.child.try_wait(), Ok(None))).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

// === impl Guarded ===

impl Guarded {
    /// Starts `program` with its output in `log`.
    pub(crate) fn start(
        cores: &[usize],
        program: &Path,
        args: &[String],
        log: &Path,
    ) -> Result<Self, Failure> {
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "guard"]).arg(log).args(pinned(cores, program)).args(args);
        let shell = Spoken::start(command)?;
        let pid = shell.line(Duration::from_secs(10))?.parse()?;
        Ok(Self { _shell: shell, pid })
    }

    /// Whether the program runs.
    pub(crate) fn runs(&self) -> bool {
        cpu_micros(self.pid).is_ok()
    }

    /// Asks the program to end (SIGTERM) and waits for it.
    pub(crate) fn stop(self, limit: Duration) -> Result<(), Failure> {
        Command::new("kill").arg(self.pid.to_string()).status()?;
        wait_until(limit, || !self.runs())
            .map_err(|error| format!("process {} after SIGTERM: {error}", self.pid).into())
    }
}

/// CPU time of a process so far, user and system, in microseconds (fields 14 and 15 of `/proc/<pid>/stat`).
/// A process that ended and was not waited for yet is an error too.
pub(crate) fn cpu_micros(pid: u32) -> Result<u64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("an unknown form of /proc/<pid>/stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    if fields.first() == Some(&"Z") {
        return Err(format!("process {pid} has ended").into());
    }
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    let ticks = field(11).zip(field(12)).ok_or("an unknown form of /proc/<pid>/stat")?;
    Ok((ticks.0 + ticks.1) * 1_000_000 / ticks_per_second())
}

fn ticks_per_second() -> u64 {
    static TICKS: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *TICKS.get_or_init(|| {
        let answer = Command::new("getconf").arg("CLK_TCK").output().ok();
        let text = answer.and_then(|output| String::from_utf8(output.stdout).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(100)
    })
}

/// Waits until `condition` holds, looking every 10 ms.
#[allow(clippy::disallowed_methods)] // The main thread of a bench may block.
pub(crate) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> Result<(), Failure> {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > limit {
            return Err(format!("not within {limit:?}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
