//! The words of the design as types: pure values, no I/O, no clock of their own.
//!
//! Owns: ids, the event, the webhook config, the delivery and its record, the outcome, the log row and its
//! page, the signatures, the retry policy, the breaker, the catalogue of event types and its two vocabularies,
//! what an event is about and which config wants it, its bodies, tokens and roles, traces, and how often a line is logged.
//! May use: nothing else in this crate. Everything is validated once, in a constructor; what exists is valid.

pub mod audit;
pub mod body;
pub mod breaker;
pub mod capacity;
pub mod catalogue;
pub mod clock;
pub mod codec;
pub mod config;
pub mod curl;
pub mod delivery;
pub mod event;
pub mod event_mistakes;
pub mod ids;
pub mod interest;
pub mod job;
pub mod log;
pub mod log_as_of;
pub mod log_cursor;
pub mod log_glance;
pub mod log_limit;
pub mod log_merge;
pub mod log_view;
pub mod outcome;
pub mod owned_config;
pub mod rate_limit;
pub mod rejected;
pub mod retry_on;
pub mod retry_policy;
pub mod sealing;
pub mod shares;
pub mod signature;
pub mod snapshot;
pub mod standard_signature;
pub mod stats;
pub mod subject;
pub mod token;
pub mod trace;
pub mod vocabulary;
