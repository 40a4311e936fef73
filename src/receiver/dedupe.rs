//! Which nonces were processed: in Redis, shared by every process of a receiver, or in this process's memory.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::redis::connection::Result;
use crate::redis::seen::SeenNonces;

/// Nonces that memory holds at most; the oldest go first. At 60 bytes each this is about 60 MiB.
const MEMORY_MAX: usize = 1_000_000;

/// The receiver's memory of what it processed.
#[derive(Debug)]
pub(super) enum Dedupe {
    /// Survives a restart and is shared; remembers for 24 hours.
    Redis(Box<SeenNonces>),
    /// Lives and dies with the process; remembers the last million.
    Memory(Mutex<Recent>),
}

/// The last nonces in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Recent {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

// === impl Dedupe ===

impl Dedupe {
    /// The check, before the work.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub(super) async fn contains(&self, nonce: &str) -> Result<bool> {
        match self {
            Self::Redis(seen) => seen.contains(nonce).await,
            Self::Memory(recent) => {
                Ok(recent.lock().unwrap_or_else(PoisonError::into_inner).known.contains(nonce))
            }
        }
    }

    /// The write, after the work: a crash between the two repeats the work and loses nothing.
    ///
    /// # Errors
    /// When Redis did not confirm it.
    pub(super) async fn insert(&self, nonce: &str) -> Result<()> {
        match self {
            Self::Redis(seen) => seen.insert(nonce).await,
            Self::Memory(recent) => {
                recent.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce, MEMORY_MAX);
                Ok(())
            }
        }
    }
}

// === impl Recent ===

impl Recent {
    fn insert(&mut self, nonce: &str, max: usize) {
        let nonce: Arc<str> = nonce.into();
        if !self.known.insert(Arc::clone(&nonce)) {
            return;
        }
        self.order.push_back(nonce);
        if self.order.len() > max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let mut recent = Recent::default();
        for nonce in ["a", "b", "b", "c"] {
            recent.insert(nonce, 2);
        }
        assert_eq!(recent.order, ["b".into(), "c".into()] as [Arc<str>; 2]);
        assert!(!recent.known.contains("a") && recent.known.contains("b") && recent.known.contains("c"));
    }
}
