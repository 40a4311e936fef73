//! Faults on real processes: replicas are killed and frozen, Redis crashes, fills up and goes away, the network cuts,
//! receivers misbehave; and what was published is compared with what arrived. `make chaos` runs everything,
//! `make chaos-short` each scenario shortened; figures and their meaning are in docs/RELIABILITY.md.
//!
//! Does nothing unless `CHAOS` says `long`, `short` or `judge`, so that `cargo test` passes it by.
//! `CHAOS_ONLY` names scenarios, joined by commas; `CHAOS_JOBS` says how many run at a time.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::figures::Figures;

mod admin;
mod figures;
mod judge;
mod ledger;
#[path = "../it/ports.rs"]
mod ports;
mod process;
mod proxy;
mod publisher;
mod receivers;
mod scenarios;
mod world;

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Every fault as often as the promise was made for.
    Long,
    /// Every fault, fewer times.
    Short,
}

/// One scenario.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Form) -> Figures,
    /// Needs more than Rust and Redis, or is long by nature.
    pub(crate) long_only: bool,
}

struct Ended {
    name: &'static str,
    took: Duration,
    figures: Result<Figures, String>,
}

// === impl Form ===

impl Form {
    /// One of two values.
    pub(crate) fn pick<T>(self, long: T, short: T) -> T {
        if self == Self::Long { long } else { short }
    }
}

fn main() -> ExitCode {
    let form = match std::env::var("CHAOS").as_deref() {
        Ok("long") => Form::Long,
        Ok("short") => Form::Short,
        Ok("judge") => return judge_the_judge(),
        _ => {
            println!("nothing done: make chaos, chaos-short and chaos-judge say what to do");
            return ExitCode::SUCCESS;
        }
    };
    let only = std::env::var("CHAOS_ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
    let wanted = |scenario: &&Scenario| {
        if only.is_empty() {
            form == Form::Long || !scenario.long_only
        } else {
            only.contains(&scenario.name)
        }
    };
    let todo: VecDeque<&Scenario> = scenarios::ALL.iter().filter(wanted).collect();
    assert!(!todo.is_empty(), "no scenario has that name");
    let jobs = std::env::var("CHAOS_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let began = Instant::now();
    let ended = run_all(todo, form, jobs);
    println!("\n{}", figures::table(&ended.iter().map(|one| (one.name, &one.figures)).collect::<Vec<_>>()));
    let red = ended.iter().filter(|one| one.figures.is_err()).count();
    println!("{} scenarios in {:.0} s, {red} red", ended.len(), began.elapsed().as_secs_f64());
    if red == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_all(todo: VecDeque<&'static Scenario>, form: Form, jobs: usize) -> Vec<Ended> {
    let (todo, ended) = (Mutex::new(todo), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let Some(scenario) = todo.lock().expect("the list").pop_front() else { return };
                    let one = run(scenario, form);
                    one.tell();
                    ended.lock().expect("the results").push(one);
                }
            });
        }
    });
    let mut ended = ended.into_inner().expect("the results");
    ended.sort_by_key(|one| scenarios::ALL.iter().position(|scenario| scenario.name == one.name));
    ended
}

/// Runs one scenario on a thread of its own: a panic is its result, not the end.
fn run(scenario: &'static Scenario, form: Form) -> Ended {
    let began = Instant::now();
    let thread =
        std::thread::Builder::new().name(scenario.name.to_owned()).spawn(move || (scenario.run)(form));
    let figures = thread.expect("a thread").join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    });
    let figures = figures.and_then(Figures::judged);
    Ended { name: scenario.name, took: began.elapsed(), figures }
}

// === impl Ended ===

impl Ended {
    fn tell(&self) {
        let took = self.took.as_secs_f64();
        match &self.figures {
            Ok(figures) => println!("ok   {:<18} {took:>4.0} s  {figures}", self.name),
            Err(problem) => println!("RED  {:<18} {took:>4.0} s  {problem}", self.name),
        }
    }
}

/// Two variants of the program break the promise on purpose, each in its way; the judge must see both.
fn judge_the_judge() -> ExitCode {
    // The variant under test comes by CHAOS_BINARY, what it must be caught at by CHAOS_ONLY.
    let only = std::env::var("CHAOS_ONLY").unwrap_or_default();
    let scenario = scenarios::ALL.iter().find(|scenario| scenario.name == only).expect("a scenario's name");
    let one = run(scenario, Form::Short);
    match &one.figures {
        Err(problem) if problem.contains("the promise is broken") => {
            println!("ok   the judge saw it in {only}: {problem}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("RED  {only} ended for another reason: {problem}");
            ExitCode::FAILURE
        }
        Ok(figures) => {
            println!("RED  the judge saw nothing wrong in {only}: {figures}");
            ExitCode::FAILURE
        }
    }
}
