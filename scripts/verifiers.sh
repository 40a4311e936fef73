#!/usr/bin/env bash
# Has the published Standard Webhooks verifiers (npm, PyPI, Go) check what a live `postrider serve` sends: each must
# accept every delivery and refuse a tampered one. What they need is installed into target/verifiers; a tool that is
# missing is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "verifiers: $*" >&2; }

for tool in node npm python3 go curl; do
    if ! command -v "$tool" >/dev/null; then
        say "$tool is missing"
        exit 1
    fi
done

room=target/verifiers
rm -rf "$room/run"
mkdir -p "$room/node" "$room/run"
run=$(cd "$room/run" && pwd)

cp tests/verifiers/node/* "$room/node/"
npm install --prefix "$room/node" --no-package-lock --ignore-scripts --no-audit --no-fund --silent </dev/null
python3 -m venv "$room/python"
"$room/python/bin/pip" install --quiet --disable-pip-version-check -r tests/verifiers/python/requirements.txt </dev/null
go build -C tests/verifiers/go -o "$(pwd)/$room/verify-go" .

offline=$(scripts/offline.sh)
cargo build --locked ${offline:+"$offline"} --quiet --bin postrider </dev/null
postrider=${CARGO_TARGET_DIR:-target}/debug/postrider

pids=()
# Invoked by the trap.
# shellcheck disable=SC2329
stop() {
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}
trap stop EXIT

wait_for() {
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then
            return
        fi
        sleep 0.1
    done
    say "gave up waiting for: $*"
    exit 1
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

admin=$(free_port)
ops=$(free_port)
"$postrider" serve --data-dir "$run/data" --listen "127.0.0.1:$admin" --ops-listen "127.0.0.1:$ops" \
    --allow-http --allow-target 127.0.0.0/8 </dev/null >"$run/serve.log" 2>&1 &
pids+=($!)
wait_for curl --silent --fail "http://127.0.0.1:$ops/readyz"

# Two events for each of the four configs below.
python3 tests/verifiers/capture.py "$run/port" "$run/requests" 8 </dev/null &
capture=$!
pids+=("$capture")
wait_for test -s "$run/port"
receiver=http://127.0.0.1:$(cat "$run/port")

token=$("$postrider" token create --data-dir "$run/data" --organisation org_1 --role admin --output json </dev/null |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])')

# The secrets: one that Postrider makes, one as the standard writes them, one with padding, and one that is no base64.
python3 - "$receiver" >"$run/configs" <<'PYTHON'
import json, sys
def config(path, **more):
    return {"url": sys.argv[1] + path, "events": ["*"], "standardWebhooks": True, **more}
print(json.dumps([
    config("/made"),
    config("/standard", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", bodyFormat="developer", httpMethod="PUT"),
    config("/padded", secret="whsec_c2VjcmV0IG9mIGFuIGVuZHBvaW50IQ=="),
    config("/raw", secret="whsec_test_secret"),
]))
PYTHON
curl --silent --show-error --fail-with-body --request PUT --header "authorization: Bearer $token" \
    --data "@$run/configs" "http://127.0.0.1:$admin/api/v2/admin/webhooks/configs" >"$run/answer" </dev/null
python3 - "$run/configs" "$run/answer" >"$run/secrets" <<'PYTHON'
import json, sys
from urllib.parse import urlparse
sent, answered = (json.load(open(name)) for name in sys.argv[1:])
print(json.dumps({
    urlparse(config["url"]).path: {"secret": config.get("secret", answer["secret"]), "raw": config["url"].endswith("/raw")}
    for config, answer in zip(sent, answered)
}))
PYTHON

publish() {
    curl --silent --show-error --fail-with-body --header "authorization: Bearer $token" --data "$1" \
        "http://127.0.0.1:$admin/api/v2/admin/webhooks/events" >/dev/null </dev/null
}
publish '{"event": "reward.earned", "data": {"user": {"id": "u1"}, "name": "Überraschung \u00e9", "n": 1.50}}'
publish '{"event": "reward-claim", "data": {"userId": "u1", "rewardId": "r1", "n": 123456789012345678901234567890}}'
if ! wait "$capture"; then
    tail -n 20 "$run/serve.log" >&2
    exit 1
fi

node "$room/node/verify.mjs" "$run/requests" "$run/secrets"
"$room/python/bin/python" tests/verifiers/python/verify.py "$run/requests" "$run/secrets"
"$room/verify-go" "$run/requests" "$run/secrets"
say "every verifier accepts every delivery and refuses what was tampered with"
