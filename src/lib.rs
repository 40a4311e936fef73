//! Postrider: a Redis-centric, high-throughput webhook dispatcher.
#![forbid(unsafe_code)]

#[cfg(all(any(feature = "chaos-ack-first", feature = "chaos-no-ownership"), not(debug_assertions)))]
compile_error!("the chaos-* features lose and repeat events on purpose: they are for make chaos-judge alone");

pub mod admin;
pub mod app;
pub mod attempt;
pub mod cli;
pub mod domain;
pub mod intake;
pub mod lanes;
pub mod metrics;
pub mod receiver;
pub mod redis;
pub mod retry;
pub mod routing;
pub mod settings;
pub mod settle;
pub mod spans;
pub mod upkeep;
pub mod worker;
