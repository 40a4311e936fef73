//! Postrider: a Redis-centric, high-throughput webhook dispatcher.
#![forbid(unsafe_code)]

pub mod domain;
pub mod receiver;
pub mod redis;
pub mod settings;
