//! Tests against real parts: Redis, sockets, TLS, processes. One binary, so that it links once.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod embedded;
mod log_tally;
mod receiver;
#[allow(dead_code)]
mod support;
