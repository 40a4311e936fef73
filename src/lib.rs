//! Postrider: a Redis-centric, high-throughput webhook dispatcher.
#![forbid(unsafe_code)]

pub mod domain;
