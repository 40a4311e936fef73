//! How much a worker may hold in memory: deliveries and bytes, from routing until they are settled. Unsettled
//! outcomes hold their credit too, so a Redis that does not answer stops the intake by itself.

use std::cell::Cell;
use std::rc::Rc;

use metrics::Gauge;
use tokio::sync::Notify;

/// A worker's credit.
#[derive(Debug)]
pub struct Credit {
    deliveries_max: u32,
    bytes_max: u64,
    deliveries: Cell<u32>,
    bytes: Cell<u64>,
    hanging_bytes: Cell<u64>,
    freed: Notify,
    gauge: Gauge,
}

/// A delivery's share of the credit; dropping it gives it back.
#[derive(Debug)]
pub struct CreditHold {
    credit: Rc<Credit>,
    bytes: u64,
    hanging: Cell<bool>,
}

// === impl Credit ===

impl Credit {
    /// A credit of so many deliveries and bytes; `gauge` counts the deliveries.
    #[must_use]
    pub fn new(deliveries_max: u32, bytes_max: u64, gauge: Gauge) -> Rc<Self> {
        Rc::new(Self {
            deliveries_max: deliveries_max.max(1),
            bytes_max: bytes_max.max(1),
            deliveries: Cell::new(0),
            bytes: Cell::new(0),
            hanging_bytes: Cell::new(0),
            freed: Notify::new(),
            gauge,
        })
    }

    /// Deliveries that may still be taken; 0 when the bytes are spent.
    #[must_use]
    pub fn left(&self) -> u32 {
        if self.bytes.get() >= self.bytes_max {
            0
        } else {
            self.deliveries_max.saturating_sub(self.deliveries.get())
        }
    }

    /// The most deliveries that the credit allows.
    #[must_use]
    pub const fn deliveries_max(&self) -> u32 {
        self.deliveries_max
    }

    /// Deliveries that are held now.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.deliveries.get()
    }

    /// Waits until something is left.
    pub async fn available(&self) {
        while self.left() == 0 {
            self.freed.notified().await;
        }
    }

    /// Waits until everything was given back.
    pub async fn all_back(&self) {
        while self.deliveries.get() > 0 {
            self.freed.notified().await;
        }
    }

    /// Takes a delivery's share, even where little is left: the bound is overrun by one body at most.
    #[must_use]
    pub fn take(self: &Rc<Self>, bytes: usize) -> CreditHold {
        let bytes = bytes as u64;
        self.deliveries.set(self.deliveries.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        self.gauge.increment(1.0);
        CreditHold { credit: Rc::clone(self), bytes, hanging: Cell::new(false) }
    }

    /// Bytes of bodies whose attempts hang: counted apart, and bounded by what lanes that hang may begin.
    #[must_use]
    pub fn hanging_bytes(&self) -> u64 {
        self.hanging_bytes.get()
    }

    /// The most bytes that the credit allows.
    #[must_use]
    pub const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

// === impl CreditHold ===

impl CreditHold {
    /// Gives the credit back while the delivery's attempt hangs, or takes it again, even where nothing is left.
    pub fn set_hanging(&self, hanging: bool) {
        if self.hanging.replace(hanging) == hanging {
            return;
        }
        let credit = &self.credit;
        if hanging {
            credit.deliveries.set(credit.deliveries.get() - 1);
            credit.bytes.set(credit.bytes.get() - self.bytes);
            credit.hanging_bytes.set(credit.hanging_bytes.get() + self.bytes);
            credit.freed.notify_waiters();
        } else {
            credit.deliveries.set(credit.deliveries.get() + 1);
            credit.bytes.set(credit.bytes.get() + self.bytes);
            credit.hanging_bytes.set(credit.hanging_bytes.get() - self.bytes);
        }
    }
}

impl Drop for CreditHold {
    fn drop(&mut self) {
        self.set_hanging(false);
        let credit = &self.credit;
        credit.deliveries.set(credit.deliveries.get() - 1);
        credit.bytes.set(credit.bytes.get() - self.bytes);
        credit.gauge.decrement(1.0);
        credit.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_spent_by_deliveries_and_by_bytes_and_comes_back() {
        let credit = Credit::new(2, 100, Gauge::noop());
        assert_eq!(credit.left(), 2);
        let first = credit.take(99);
        assert_eq!(credit.left(), 1);
        let second = credit.take(99);
        assert_eq!(credit.left(), 0);
        drop(second);
        assert_eq!(credit.left(), 1);
        let large = credit.take(1_000);
        drop(first);
        assert_eq!(credit.left(), 0, "one delivery is left, but no byte");
        drop(large);
        assert_eq!((credit.left(), credit.held()), (2, 0));
        let hangs = credit.take(100);
        hangs.set_hanging(true);
        assert_eq!((credit.left(), credit.hanging_bytes()), (2, 100), "what hangs takes no credit");
        hangs.set_hanging(false);
        assert_eq!((credit.left(), credit.hanging_bytes()), (0, 0), "what is settled does");
        hangs.set_hanging(true);
        drop(hangs);
        assert_eq!((credit.left(), credit.held(), credit.hanging_bytes()), (2, 0, 0));
    }
}
