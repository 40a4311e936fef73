//! The only room that speaks Redis: no other formats a key or names a command.
//!
//! Owns: key names (`keys`), scripts (`scripts/`), connections, and one file per noun of the keyspace.
//! May use: `domain`, `settings`, `metrics`. Never HTTP.

pub mod connection;
pub mod embedded;
pub mod keys;
pub mod scripts;
pub mod seen;
