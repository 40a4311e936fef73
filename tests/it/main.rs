//! Tests against real parts: Redis, sockets, TLS, processes. One binary, so that it links once.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

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
