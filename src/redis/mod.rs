//! The only room that speaks Redis: no other formats a key or names a command.
//!
//! Owns: key names (`keys`), scripts (`scripts/`), connections, and one file per noun of the keyspace.
//! May use: `domain`, `settings`, `metrics`. Never HTTP.

mod answer;
pub mod append;
pub mod audit;
pub mod by_hand;
pub mod configs;
pub mod connection;
pub mod deliveries;
mod delivery_read;
pub mod directory;
pub mod doctor;
pub mod embedded;
pub mod events;
pub mod failed;
pub mod fates;
pub mod follower;
pub mod forget;
pub mod health;
pub mod jobs;
pub mod keys;
pub mod keyspace;
pub mod leases;
mod log_answer;
mod log_count;
mod log_failed;
mod log_heads;
mod log_page;
mod log_read;
mod log_rowless;
mod log_scan;
pub mod log_search;
pub mod log_tail;
pub mod log_tally;
mod log_waiting;
pub mod log_write;
pub mod publish;
pub mod purge;
pub mod recover;
pub mod rejected;
pub mod replay;
pub mod scripts;
pub mod seen;
pub mod shard_state;
pub mod stats;
pub mod stored_config;
pub mod tokens;
pub mod trace;
pub mod trace_search;
mod unusable;
