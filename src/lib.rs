//! Postrider: a Redis-centric, high-throughput webhook dispatcher.
#![forbid(unsafe_code)]

pub mod admin;
pub mod domain;
pub mod redis;
pub mod settings;
