//! Tests against real parts: Redis, sockets, TLS, processes. One binary, so that it links once.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod admin_configs;
mod control_scripts;
mod directory;
mod ops;
mod publish;
#[allow(dead_code)]
mod support;
#[allow(dead_code)]
mod support_http;
