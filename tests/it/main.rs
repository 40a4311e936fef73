//! Tests against real parts: Redis, sockets, TLS, processes. One binary, so that it links once.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::print_stdout, clippy::print_stderr)] // What a failed test needs to be understood.

mod arrivals;
mod attempt;
mod cli;
mod cli_http;
mod crash;
mod embedded;
mod receiver;
mod serving;
mod stage;
#[allow(dead_code)]
mod support;
mod walk;
mod walk_endings;
mod walk_input;

mod admin_configs;
mod directory;
mod ops;
mod publish;
#[allow(dead_code)]
mod support;

mod log_bounds;
#[allow(dead_code)]
mod log_world;
mod logs;
#[allow(dead_code)]
mod support_http;
