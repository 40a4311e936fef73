#!/usr/bin/env bash
# Checks docs/openapi.json with a linter (Redocly), and a live `postrider serve` against it with schemathesis: all of
# its checks, as an admin and as an operator. The server listens on free loopback ports, has its own embedded Redis,
# and sends to one receiver on loopback only: all other configs point at loopback addresses that the guard denies.
# tests/api/world.py makes what the requests ask for; every operation must have succeeded at least once.
#
#   API_CHECK_EXAMPLES=200 scripts/api-check.sh    look longer; 50 otherwise, 10 as an operator
#   API_CHECK_SEED=7 scripts/api-check.sh          repeat a run; its seed is printed at the end of its output
#
# Both tools are installed under target/api-check, in the versions that tests/api names; later runs need no network.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
tools=$root/target/api-check
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true

say() { echo "api-check: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# install NAME FILE COMMAND...: runs the command unless it was run for this FILE before.
install() {
    local stamp=$tools/$1.installed file=$2
    shift 2
    cmp -s "$file" "$stamp" && return
    say "installing what $file names under target/api-check"
    "$@" >&2 || fail "cannot install what $file names"
    cp "$file" "$stamp"
}

make_venv() {
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --requirement tests/api/requirements.txt
}

make_node() {
    mkdir -p "$tools/node"
    cp tests/api/package.json tests/api/package-lock.json "$tools/node/"
    npm ci --prefix "$tools/node" --ignore-scripts --no-audit --no-fund --loglevel error
}

for tool in python3 node npm; do
    command -v "$tool" >/dev/null || fail "missing: $tool (make bootstrap)"
done
mkdir -p "$tools"
install python tests/api/requirements.txt make_venv
install node tests/api/package-lock.json make_node

"$tools/node/node_modules/.bin/redocly" lint --config tests/api/redocly.yaml --max-problems 50 docs/openapi.json

offline=$(scripts/offline.sh)
binary=$(cargo build --locked ${offline:+"$offline"} --quiet --message-format json </dev/null |
    sed -n 's/.*"executable":"\([^"]*\/postrider\)".*/\1/p' | tail -n 1)
[ -x "$binary" ] || fail "cannot find the program that was built"

place=$(mktemp -d)
"$tools/venv/bin/python" tests/api/receiver.py >"$place/receiver" </dev/null &
receiver=$!
# Limits on requests are off: hundreds a second come from one token, bad ones among them. Only the receiver's address
# is let through the guard. Delivered events are kept for a while, so that there is something to replay.
"$binary" serve --data-dir "$place/data" --listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 \
    --admin-rate-limit 0 --admin-auth-failures-max 0 --allow-http --allow-target 127.0.0.1/32 --events-age 1h \
    >"$place/log" 2>&1 </dev/null &
server=$!
finish() {
    kill "$server" "$receiver" 2>/dev/null || true
    wait "$server" "$receiver" 2>/dev/null || true
    rm -rf "$place"
}
trap finish EXIT

for _ in $(seq 300); do
    [ -s "$place/receiver" ] && grep -q '"message":"ready"' "$place/log" && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
grep -q '"message":"ready"' "$place/log" || fail "the server did not become ready: $(cat "$place/log")"
address=$(sed -n 's/.*"message":"listen","address":"\([^"]*\)".*/\1/p' "$place/log")

token() {
    "$binary" token create --data-dir "$place/data" --organisation org_api_check --role "$1" 2>/dev/null
}

export API_CHECK_URL=http://$address API_CHECK_REDIS=$place/data/redis/redis.sock API_CHECK_SEEN=$place/seen
export API_CHECK_ADMIN API_CHECK_OPERATOR API_CHECK_RECEIVER
[ -s "$place/receiver" ] || fail "the receiver did not start"
API_CHECK_RECEIVER=http://127.0.0.1:$(head -n 1 "$place/receiver")
API_CHECK_ADMIN=$(token admin)
API_CHECK_OPERATOR=$(token operator)

# check ROLE TOKEN EXAMPLES HEADER...: every check, with a token of that role.
check() {
    local role=$1 examples=$3 code=0 headers=()
    headers=(--header "Authorization: Bearer $2")
    shift 3
    for header in "$@"; do
        headers+=(--header "$header")
    done
    say "schemathesis as $role"
    # Longer than this is a fault: the run is bounded by its number of examples.
    (cd "$tools" && PYTHONPATH=$root/tests/api SCHEMATHESIS_HOOKS=hooks timeout --signal INT 300 venv/bin/schemathesis \
        --config-file "$root/tests/api/schemathesis.toml" run "http://$address/api/v2/admin/openapi.json" \
        "${headers[@]}" --max-examples "$examples" \
        ${API_CHECK_SEED:+--seed "$API_CHECK_SEED"}) || code=$?
    [ "$code" -eq 0 ] || fail "schemathesis as $role found faults (status $code); the server said: $(grep -v '"INFO"' "$place/log" | tail -n 5)"
}

check admin "$API_CHECK_ADMIN" "${API_CHECK_EXAMPLES:-50}"
# What an operator may beyond an admin is little: this finds what only the other token meets.
check operator "$API_CHECK_OPERATOR" "${API_CHECK_EXAMPLES:-10}" "x-organisation-id: org_api_check"
if grep -q '"level":"ERROR"' "$place/log"; then
    fail "the server logged an error: $(grep '"level":"ERROR"' "$place/log" | head -n 3)"
fi
# Of what never succeeds only the refusals were checked. The description was read to begin with, and the stream is
# left out (tests/api/schemathesis.toml).
operations=$(sed -n 's/.*"operationId": "\(.*\)".*/\1/p' docs/openapi.json | grep -Ev '^(streamWebhookLogs|getOpenApi)$')
for operation in $operations; do
    grep -q "^$operation 2" "$API_CHECK_SEEN" || fail "$operation never succeeded"
done
say "the description is clean, and the server keeps to it"
