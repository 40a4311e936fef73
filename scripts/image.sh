#!/usr/bin/env bash
# Builds the image's last stage from the static program of `make dist` with buildah, without a registry, and checks that
# it is small, runs read-only as nobody, and answers its own health check (podman with runc where both are there,
# else buildah's chroot isolation).
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "image: $*" >&2
    exit 1
}

command -v buildah >/dev/null || fail "missing: buildah; scripts/bootstrap.sh dist installs it"
program=$(find target/dist -path '*-linux-musl/postrider' -type f | head -1)
[ -n "$program" ] || fail "no static program; run make dist first"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/etc/ssl/certs"
cp "$program" "$stage/postrider"
cp /etc/ssl/certs/ca-certificates.crt "$stage/etc/ssl/certs/"
# The last stage as it stands in the Dockerfile, its files taken from this folder instead of the first stage.
sed -n '/^FROM scratch/,$p' Dockerfile | sed 's/--from=build //' >"$stage/Containerfile"

tag=localhost/postrider:0.1.0
buildah --storage-driver vfs bud --isolation chroot --quiet --format docker -t "$tag" -f "$stage/Containerfile" "$stage" >/dev/null
size=$(buildah --storage-driver vfs images --json "$tag" | sed -n 's/.*"size": "\(.*\)".*/\1/p')
bytes=$(($(stat -c %s "$stage/postrider") + $(stat -c %s "$stage/etc/ssl/certs/ca-certificates.crt")))
[ "$bytes" -lt $((40 * 1000 * 1000)) ] || fail "the image has $bytes bytes; at most 40 MB were promised"
echo "image: $tag, $size"

# A Redis and a replica in the image, on loopback.
redis_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
ops_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis-server --port "$redis_port" --bind 127.0.0.1 --save '' --appendonly yes --dir "$stage" \
    --maxmemory 100mb --maxmemory-policy noeviction >"$stage/redis.log" &
redis=$!
trap 'kill $redis 2>/dev/null; rm -rf "$stage"' EXIT
settings=(-e "POSTRIDER_REDIS_URL=redis://127.0.0.1:$redis_port" -e "POSTRIDER_OPS_LISTEN=127.0.0.1:$ops_port" -e POSTRIDER_LISTEN=127.0.0.1:0)
name=postrider-image-check-$$
if command -v podman >/dev/null && command -v runc >/dev/null; then
    run=(podman --runtime "$(command -v runc)" --storage-driver vfs)
    # Inside another container the default limits may not be raised.
    "${run[@]}" run -d --name "$name" --network host --read-only --cap-drop=ALL --security-opt no-new-privileges \
        --ulimit nofile=20000:20000 --ulimit nproc=4096:4096 "${settings[@]}" "$tag" >/dev/null
    trap '"${run[@]}" rm -f "$name" >/dev/null 2>&1; kill $redis 2>/dev/null; rm -rf "$stage"' EXIT
    for _ in $(seq 100); do
        if "${run[@]}" exec "$name" /postrider ready 2>/dev/null; then
            ready=yes
            break
        fi
        sleep 0.2
    done
    [ "${ready:-}" = yes ] || { "${run[@]}" logs "$name" >&2; fail "the container did not become ready"; }
    user=$("${run[@]}" inspect --format '{{.Config.User}}' "$name")
    [ "$user" = 65532:65532 ] || fail "runs as $user"
    "${run[@]}" stop -t 45 "$name" >/dev/null
    code=$("${run[@]}" inspect --format '{{.State.ExitCode}}' "$name")
    [ "$code" = 0 ] || fail "ended with $code"
    echo "image: ran read-only as 65532 without capabilities, became ready, drained and ended with 0"
else
    fail "missing: podman and runc; scripts/bootstrap.sh dist installs them"
fi
