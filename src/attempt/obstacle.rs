//! What keeps an attempt from being made at all: a fault of our own side, which no receiver is blamed for.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::domain::outcome::Fault;

/// A fault of our own side. The attempt was not made: nothing reached the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What is at fault.
    pub kind: ObstacleKind,
    /// One line for the operator. Never holds the proxy's credentials.
    pub message: String,
}

/// What is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObstacleKind {
    /// The forward proxy.
    Proxy,
    /// The source address cannot be used.
    Source,
    /// Files, ports or buffers of this machine are used up.
    Resources,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoWay {
    /// The receiver's side.
    Fault(Fault),
    /// Ours.
    Obstacle(Obstacle),
}

// === impl Obstacle ===

impl Obstacle {
    pub(super) fn new(kind: ObstacleKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    /// The obstacle that a failed call on a socket shows, where it is one of this machine's own.
    pub(super) fn of_socket(error: &io::Error) -> Option<Self> {
        const OURS: [Errno; 5] =
            [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
        let ours = OURS.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
        ours.then(|| Self::new(ObstacleKind::Resources, error))
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.message)
    }
}

// === impl ObstacleKind ===

impl ObstacleKind {
    /// The label in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Source => "source",
            Self::Resources => "resources",
        }
    }
}

// === impl NoWay ===

impl From<Fault> for NoWay {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<super::guard::Denial> for NoWay {
    fn from(denial: super::guard::Denial) -> Self {
        Self::Fault(denial.into())
    }
}

impl From<Obstacle> for NoWay {
    fn from(obstacle: Obstacle) -> Self {
        Self::Obstacle(obstacle)
    }
}
