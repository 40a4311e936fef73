#!/usr/bin/env bash
# Runs the demo once, small, with the build that the tests use, and checks its summary: the program starts its
# Redis, delivers, retries, disables a config on 410, stops, and every event is accounted for.
set -euo pipefail
cd "$(dirname "$0")/.."

offline=$(scripts/offline.sh)
summary=$(cargo run --locked ${offline:+"$offline"} --quiet -- demo --once --events 2000 --output json </dev/null)
echo "$summary"

expect() {
    if ! grep -Eq "$1" <<<"$summary"; then
        echo "smoke: the summary has no $1" >&2
        exit 1
    fi
}
expect '"accountedFor": ?true'
expect '"delivered": ?[1-9]'
expect '"retried": ?[1-9]'
expect '"gone": ?[1-9]'
echo "smoke: every event is accounted for"
