# The only entry point: what people and CI run. `make help` lists it.

CARGO ?= cargo
# Everything is fetched once; afterwards the network is not touched.
OFFLINE = $(shell scripts/offline.sh)
SCRIPTS = $(wildcard scripts/*.sh) .ci/run

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## List what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

bootstrap: ## Install what is missing: a C compiler, redis-server, shellcheck, Python, Node.js (says what and why)
	@scripts/bootstrap.sh all

build: ## Build what users run: target/release/postrider (fat LTO, takes minutes)
	@scripts/bootstrap.sh build
	$(CARGO) build --locked $(OFFLINE) --release

demo: ## Show the whole story in a minute (built with the quick profile: as release, without LTO)
	@scripts/bootstrap.sh demo
	$(CARGO) build --locked $(OFFLINE) --profile quick
	exec $(CARGO) run --locked $(OFFLINE) --profile quick --quiet -- demo

test: ## Run every test; needs Rust and redis-server, nothing else
	@scripts/bootstrap.sh test
	$(CARGO) test --locked $(OFFLINE) --no-fail-fast

test-all: lint test api-check smoke chaos-short loadtest-short bench-short operations integrations ## Everything: lints, tests, API, demo, faults, load, and the two below

operations: dashboards-check deploy-check ## Dashboards and alerts on a live system; the compose file's services, the image's and the cluster's files

integrations: verifiers receivers-check docs-check ## Published verifiers, the example receivers, every code block of the guides

chaos: ## Every fault on real processes, as often as docs/RELIABILITY.md says; CHAOS_ONLY=name,... for some
	@scripts/bootstrap.sh test
	CHAOS=long CHAOS_JOBS=$${CHAOS_JOBS:-2} $(CARGO) test --locked $(OFFLINE) --profile quick --test chaos
	scripts/chaos-judge.sh

# Three at a time, for most of a scenario is waiting for leases and claims to end.
chaos-short: ## Every fault on real processes, each a few times, in under 6 minutes
	@scripts/bootstrap.sh test
	CHAOS=short CHAOS_JOBS=$${CHAOS_JOBS:-2} $(CARGO) test --locked $(OFFLINE) --test chaos

chaos-judge: ## Break the promise on purpose, in two ways, and check that the judge of chaos sees both
	@scripts/bootstrap.sh test
	scripts/chaos-judge.sh

smoke: ## Run the demo once, small, and check that every event is accounted for
	@scripts/bootstrap.sh test
	scripts/smoke.sh

loadtest: ## A minute of load with k6 on this machine; target/loadtest/report.html (loadtest/README.md)
	@scripts/bootstrap.sh loadtest
	scripts/loadtest.sh

loadtest-short: ## Each load test for 10 s on the build of the tests, in under 2.5 minutes: does everything hold?
	@scripts/bootstrap.sh loadtest
	scripts/loadtest.sh --short

events: ## Write docs/EVENTS.md from the catalogue of event types
	@scripts/bootstrap.sh build
	$(CARGO) run --locked $(OFFLINE) --quiet -- events markdown > docs/EVENTS.md

openapi: ## Write docs/openapi.json from the code
	@scripts/bootstrap.sh build
	$(CARGO) run --locked $(OFFLINE) --quiet -- openapi > docs/openapi.json

openapi-released: openapi ## At a release: later changes of the API must not break what is described now
	cp docs/openapi.json docs/openapi.released.json

api-check: ## Lint docs/openapi.json, and run schemathesis against a live server (installs both under target/)
	@scripts/bootstrap.sh api
	scripts/api-check.sh

deploy-check: ## Check the Dockerfile, the compose file and the Kubernetes base, and run the compose file's services
	@scripts/bootstrap.sh deploy
	scripts/deploy-check.sh

dashboards-check: ## Check dashboards and alerts, and ask a Prometheus on a live Postrider every query of theirs
	@scripts/bootstrap.sh dashboards
	scripts/dashboards-check.sh

dist: ## Make the static program, its manual, completions and unit as a tarball with a checksum (takes minutes)
	@scripts/bootstrap.sh dist
	scripts/dist.sh

image: dist ## Build the image from it, and check that it runs read-only as nobody
	scripts/image.sh

verifiers: ## Have the published Standard Webhooks verifiers (Node, Python, Go) check real deliveries
	@scripts/bootstrap.sh test
	scripts/verifiers.sh

receivers-check: ## Run the example receivers (Node, Python, Go, Rust) against a live server, with crashes and duplicates
	@scripts/bootstrap.sh receivers
	scripts/receivers-check.sh

docs-check: ## Run every code block of docs/WEBHOOKS.md and docs/PRODUCERS.md against live processes
	@scripts/bootstrap.sh docs
	scripts/docs-check.sh

lint: fmt-check clippy doc shellcheck ## Everything a machine can say about the text

fmt: ## Format the code
	$(CARGO) fmt

fmt-check: ## Check the formatting
	$(CARGO) fmt --check

clippy:
	@scripts/bootstrap.sh build
	$(CARGO) clippy --locked $(OFFLINE) --all-targets -- -D warnings

doc: ## Build the documentation of the code, private items included; broken links fail
	@scripts/bootstrap.sh build
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked $(OFFLINE) --no-deps --document-private-items

shellcheck: ## Check the shell scripts
	@scripts/bootstrap.sh lint
	shellcheck $(SCRIPTS)

# Not part of `lint` or `test-all`: cargo-deny is built from source by whoever wants it, and takes minutes.
deny: ## Check the dependencies' licences and sources; needs cargo-deny
	@$(CARGO) deny --version >/dev/null 2>&1 || \
	{ echo "make deny: cargo-deny is missing; install it with: cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny $(OFFLINE) check bans licenses sources

# Not part of `test-all`, which runs the same targets on a stable compiler: tests/fuzz.rs.
fuzz: ## Fuzz each target for FUZZ_SECONDS (60); needs cargo-fuzz and a nightly compiler
	@scripts/bootstrap.sh build
	scripts/fuzz.sh

bench: ## Measure; the method is in benches/README.md
	@scripts/bootstrap.sh test
	$(CARGO) bench --locked $(OFFLINE) --bench first_figures --bench isolation --bench log_queries

bench-short: ## Ask 100 full logs with the build of the tests: are all answers right? (the times mean nothing)
	@scripts/bootstrap.sh test
	$(CARGO) bench --locked $(OFFLINE) --profile dev --bench log_queries -- --configs 100 --samples 20 --events 5000 --pairs 1

clean: ## Remove what was built; data folders stay
	$(CARGO) clean

ci: ## What CI runs
	.ci/run
