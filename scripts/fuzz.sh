#!/bin/sh
# Runs every fuzz target under libFuzzer, FUZZ_SECONDS (60) each, FUZZ_ONLY="name ..." for some. What is found
# anew stays in a temporary folder; a crash ends the run and leaves its input in fuzz/artifacts.
set -eu
cd "$(dirname "$0")/.."

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "make fuzz: a nightly compiler and cargo-fuzz are needed; install them with:" >&2
    echo "    rustup toolchain install nightly && cargo install --locked cargo-fuzz" >&2
    exit 1
fi
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
for corpus in fuzz/corpus/*/; do
    target=$(basename "$corpus")
    case " ${FUZZ_ONLY:-$target} " in *" $target "*) ;; *) continue ;; esac
    mkdir "$found/$target"
    cargo +nightly fuzz run "$target" "$found/$target" "$corpus" -- \
        -max_total_time="${FUZZ_SECONDS:-60}" -max_len=8192 -timeout=10
done
