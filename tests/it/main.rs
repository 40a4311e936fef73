//! Tests against real parts: Redis, sockets, TLS, processes. One binary, so that it links once.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::print_stdout, clippy::print_stderr)] // What a failed test needs to be understood.

mod admin_configs;
mod arrivals;
mod attempt;
mod audit;
mod bad_starts;
mod by_hand;
mod by_hand_script;
mod cli;
mod cli_api;
mod cli_http;
mod config_by_id;
mod control_scripts;
mod crash;
mod curl;
mod directory;
mod edges;
mod embedded;
mod forget;
mod formats;
mod full;
mod health;
mod hostile;
mod idle;
mod isolation;
mod keyspace;
mod lanes_limits;
mod lanes_pace;
mod limits;
mod log_bounds;
mod log_tally;
mod log_world;
mod logs;
mod lost_replies;
mod ops;
mod paging;
mod proxy;
mod publish;
mod purge;
mod receiver;
mod recover;
mod regressions;
mod rejected;
mod replay;
mod roles;
mod rotation;
mod script_world;
mod scripts;
mod scripts_corrupt;
mod scripts_cost;
mod scripts_group;
mod scripts_invariants;
mod scripts_log;
mod scripts_queue;
mod scripts_settle;
mod secrets;
mod serving;
mod stage;
mod stats;
#[allow(dead_code)]
mod support;
#[allow(dead_code)]
mod support_http;
mod tail;
mod tls_listener;
mod tokens_api;
mod trace;
mod vocabulary;
mod walk;
mod walk_endings;
mod walk_input;
