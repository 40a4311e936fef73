#!/usr/bin/env bash
# Runs every code block of docs/WEBHOOKS.md and docs/PRODUCERS.md against live processes (tests/docs/run_blocks.py says
# how). The client libraries are installed into target/docs; a tool that is missing is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in node npm python3 go java mvn curl jq openssl redis-cli cargo; do
    if ! command -v "$tool" >/dev/null; then
        echo "docs-check: $tool is missing; make docs-check installs it with scripts/bootstrap.sh" >&2
        exit 1
    fi
done

room=$(pwd)/target/docs
mkdir -p "$room/node" "$room/go"

cp tests/docs/package.json "$room/node/"
npm install --prefix "$room/node" --no-package-lock --ignore-scripts --no-audit --no-fund --silent </dev/null

[ -x "$room/venv/bin/pip" ] || python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/docs/requirements.txt </dev/null

cp tests/docs/go.mod tests/docs/go.sum "$room/go/"

# Once for each state of the list: Maven takes seconds to find that nothing is to be done.
if ! cmp -s tests/docs/pom.xml "$room/pom.xml"; then
    rm -rf "$room/jars"
    mvn --batch-mode --quiet --file tests/docs/pom.xml \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DoutputDirectory="$room/jars" </dev/null
    cp tests/docs/pom.xml "$room/pom.xml"
fi

offline=$(scripts/offline.sh)
cargo build --locked ${offline:+"$offline"} --quiet --bin postrider </dev/null

program=${CARGO_TARGET_DIR:-target}/debug/postrider
python3 tests/docs/self_check.py "$program" "$room" "$room/run/self"
python3 tests/docs/run_blocks.py "$program" "$room" "$room/run" docs/WEBHOOKS.md docs/PRODUCERS.md
