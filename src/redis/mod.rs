//! The only room that speaks Redis: no other formats a key or names a command.
//!
//! Owns: key names (`keys`), scripts (`scripts/`), connections, and one file per noun of the keyspace.
//! May use: `domain`, `settings`, `metrics`. Never HTTP.

pub mod configs;
pub mod connection;
mod delivery_read;
pub mod directory;
pub mod follower;
pub mod keys;
mod log_heads;
mod log_read;
mod log_scan;
pub mod log_search;
pub mod publish;
pub mod scripts;
pub mod tokens;
