//! Postrider: a Redis-centric, high-throughput webhook dispatcher.
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod domain;
pub mod receiver;
pub mod redis;
pub mod settings;
