#!/usr/bin/env bash
# Tests the judge of tests/chaos: builds two variants of the program that break the promise on purpose, and lets the
# judge look at each; it must see what is wrong. The normal build is put back at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

offline=$(scripts/offline.sh)
target=${CARGO_TARGET_DIR:-target}
variants=$(mktemp -d)
trap 'rm -rf "$variants"' EXIT

for feature in chaos-ack-first chaos-no-ownership; do
    cargo build --locked ${offline:+"$offline"} --features "$feature" </dev/null
    cp "$target/debug/postrider" "$variants/$feature"
done
cargo build --locked ${offline:+"$offline"} </dev/null

judge() {
    CHAOS=judge CHAOS_ONLY=$2 CHAOS_BINARY=$variants/$1 \
        cargo test --locked ${offline:+"$offline"} --quiet --test chaos </dev/null
}
judge chaos-ack-first kill-replica
judge chaos-no-ownership freeze-replica
