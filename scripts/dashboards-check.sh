#!/usr/bin/env bash
# Checks the Grafana dashboards and the Prometheus rules: as files, with promtool, and against a live Postrider that is
# loaded and faulted, scraped by a real Prometheus, every query of every panel.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 scripts/dashboards.py --check
promtool check config deploy/prometheus/prometheus.yml
promtool check rules deploy/prometheus/rules/*.yml
promtool test rules deploy/prometheus/tests/*.yml

offline=$(scripts/offline.sh)
cargo build --locked ${offline:+"$offline"} --quiet </dev/null
python3 -B tests/dashboards/check.py "${CARGO_TARGET_DIR:-target}/debug/postrider"
