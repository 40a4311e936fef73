//! The scenarios: each sets its world up, does its fault, shows that it happened, and lets the judge look.

use crate::Scenario;

mod changes;
mod clocks;
mod endpoints;
mod network;
mod replicas;
mod store;
mod store_full;

/// Every scenario, in the order of docs/RELIABILITY.md.
pub(crate) static ALL: &[Scenario] = &[
    Scenario { name: "kill-replica", run: replicas::kill, long_only: false },
    Scenario { name: "freeze-replica", run: replicas::freeze, long_only: false },
    Scenario { name: "rolling-restart", run: replicas::rolling_restart, long_only: false },
    Scenario { name: "second-signal", run: replicas::second_signal, long_only: false },
    Scenario { name: "redis-kill-always", run: store::kill_always, long_only: false },
    Scenario { name: "redis-kill-everysec", run: store::kill_everysec, long_only: false },
    Scenario { name: "redis-power-loss", run: store::power_loss, long_only: false },
    Scenario { name: "redis-away", run: store::away, long_only: false },
    Scenario { name: "redis-hangs", run: store::hangs, long_only: false },
    Scenario { name: "script-flush", run: store::script_flush, long_only: false },
    Scenario { name: "redis-full", run: store_full::full, long_only: false },
    Scenario { name: "disk-full", run: store_full::disk_full, long_only: false },
    Scenario { name: "network-steps", run: network::steps, long_only: false },
    Scenario { name: "network-cuts", run: network::cuts, long_only: false },
    Scenario { name: "network-stalls", run: network::stalls, long_only: false },
    Scenario { name: "bad-receivers", run: endpoints::bad, long_only: false },
    Scenario { name: "dns-fails", run: endpoints::dns, long_only: true },
    Scenario { name: "config-changes", run: changes::in_a_backlog, long_only: false },
    Scenario { name: "clocks-apart", run: clocks::apart, long_only: true },
];
