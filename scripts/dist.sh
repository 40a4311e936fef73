#!/usr/bin/env bash
# Makes target/dist/postrider-<version>-<target>.tar.gz and its checksum: the static program, manual pages,
# completions, the systemd unit, the documents. With --quick it is built without LTO, to check the packing.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${POSTRIDER_TARGET:-$(uname -m)-unknown-linux-musl}
profile=release
if [ "${1:-}" = --quick ]; then
    profile=quick
fi

fail() {
    echo "dist: $*" >&2
    exit 1
}

command -v musl-gcc >/dev/null || fail "missing: musl-gcc (Debian: musl-tools; Fedora: musl-gcc); scripts/bootstrap.sh dist installs it"
if ! rustc --print target-libdir --target "$target" | xargs test -d; then
    fail "missing: Rust's standard library for $target; install it with: rustup target add $target"
fi

offline=$(scripts/offline.sh)
CC_x86_64_unknown_linux_musl=musl-gcc CC_aarch64_unknown_linux_musl=musl-gcc \
    cargo build --locked ${offline:+"$offline"} --profile "$profile" --target "$target" --bin postrider </dev/null

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
name=postrider-$version-$target
out=target/dist
rm -rf "${out:?}/$name" "$out/$name".tar.gz*
mkdir -p "$out/$name"/{completions,man,systemd}
strip -o "$out/$name/postrider" "${CARGO_TARGET_DIR:-target}/$target/$profile/postrider"
program=$out/$name/postrider
if ldd "$program" 2>/dev/null | grep -q '=>'; then
    fail "the program is not static"
fi

for shell in bash zsh fish; do
    "$program" completions "$shell" >"$out/$name/completions/postrider.$shell"
done
"$program" manual "$out/$name/man" >/dev/null
cp deploy/systemd/postrider.service "$out/$name/systemd/"
cp README.md LICENSE CHANGELOG.md SECURITY.md "$out/$name/"
cp -r docs "$out/$name/docs"

# The same files give the same archive: sorted, owned by nobody in particular, dated by the last commit.
tar -C "$out" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct 2>/dev/null || echo 0)" \
    -cf - "$name" | gzip -9n >"$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
ls -l "$out/$name/postrider" "$out/$name.tar.gz"
cat "$out/$name.tar.gz.sha256"
