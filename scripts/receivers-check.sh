#!/usr/bin/env bash
# Runs the receivers of examples/receivers, each as its README says, against a live `postrider serve`: good, tampered,
# wrongly signed, during a rotation, twice, killed between work and nonce, without Redis. What they need is installed
# into target/receivers; a tool that is missing is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in node npm python3 go cargo redis-server; do
    if ! command -v "$tool" >/dev/null; then
        echo "receivers-check: $tool is missing; make receivers-check installs it with scripts/bootstrap.sh" >&2
        exit 1
    fi
done

from=examples/receivers
room=$(pwd)/target/receivers
mkdir -p "$room/node" "$room/python" "$room/rust"

cp "$from"/node-express/{package.json,receiver.js} "$room/node/"
npm install --prefix "$room/node" --no-package-lock --ignore-scripts --no-audit --no-fund --silent </dev/null

cp "$from"/python-flask/{requirements.txt,receiver.py} "$room/python/"
[ -x "$room/python/venv/bin/pip" ] || python3 -m venv "$room/python/venv"
"$room/python/venv/bin/pip" install --quiet --disable-pip-version-check -r "$room/python/requirements.txt" </dev/null

go vet -C "$from/go" .
go build -C "$from/go" -o "$room/receiver-go" .

# With the versions that the program itself is locked to, and in a folder of its own: its features are others.
cp -r "$from/rust-axum/Cargo.toml" "$from/rust-axum/src" Cargo.lock "$room/rust/"
CARGO_TARGET_DIR=$room/rust/target cargo build --quiet --manifest-path "$room/rust/Cargo.toml" </dev/null

offline=$(scripts/offline.sh)
cargo build --locked ${offline:+"$offline"} --quiet --bin postrider </dev/null

python3 tests/receivers/check.py "${CARGO_TARGET_DIR:-target}/debug/postrider" "$room/run" \
    "node-express=node $room/node/receiver.js" \
    "python-flask=$room/python/venv/bin/python $room/python/receiver.py" \
    "go=$room/receiver-go" \
    "rust-axum=$room/rust/target/debug/postrider-receiver"
