# The two commands are `make demo` and `make test`; `make` alone lists all targets.
# Everything is built in one profile (release), workspace-wide, so that heavy packages compile once.

# A fresh shell may not have rustup's folder in its path yet.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
# Where libclang is, for RocksDB's bindings. Asked late: `make deps` may just have installed it.
CLANG = LIBCLANG_PATH="$$(scripts/libclang-path)"
CARGO ?= cargo
# The folder that cargo builds into.
BUILD := $(or $(CARGO_TARGET_DIR),target)/release
DEMO ?= target/demo

# What `make reproduce` runs.
CLAIM ?= byzantine-table

# What `make simulate` runs.
SCENARIO ?= testnet/scenarios/baseline.toml
SEED ?= 1
SEEDS ?= 1..50
PEERS ?=
ROUNDS ?=

.PHONY: help deps build demo test test-architecture lint format-check clippy simulate soak docker-image testnet-docker bench-aggregation bench-links bench-exchange bench-engine bench-data bench-optimizers reproduce check-cuda cuda-binary clean-demo

## help: list the targets
help:
	@sed -n 's/^## \([a-z-]*\): \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-18s %s\n' "$$name" "$$text"; \
	done

## deps: install the system packages that the build needs and this machine lacks; asks for root only then
deps:
	@scripts/install-deps

## build: build the release binaries `node` and `testnet`
build: deps
	$(CLANG) $(CARGO) build --release --workspace --bins

## demo: four nodes on this machine train a language model together, and are compared with each alone
demo: build
	@scripts/fetch-demo-data $(DEMO)/data
	@$(BUILD)/testnet demo --dir $(DEMO)

## test: run all tests (with cargo-nextest where it is installed)
test: deps
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CLANG) $(CARGO) nextest run --cargo-profile release --workspace && \
		$(CLANG) $(CARGO) test --release --workspace --doc; \
	else \
		$(CLANG) $(CARGO) test --release --workspace; \
	fi

## test-architecture: check who imports what, the doors of heavy packages, and what must be absent
test-architecture:
	$(CLANG) $(CARGO) test --release --workspace --test architecture

## lint: check formatting, and clippy without a warning
lint: deps format-check clippy

## format-check: check formatting
format-check:
	$(CARGO) fmt --all --check

## clippy: clippy without a warning
clippy:
	$(CLANG) $(CARGO) clippy --release --workspace --all-targets -- -D warnings

## simulate: run a scenario in virtual time: SEED=1 PEERS=100 ROUNDS=20 SCENARIO=FILE; the last line is JSON
simulate:
	@$(CARGO) build --release --quiet -p synod-testnet
	@$(BUILD)/testnet simulate $(SCENARIO) --seed $(SEED) $(if $(PEERS),--peers $(PEERS)) $(if $(ROUNDS),--rounds $(ROUNDS))

## docker-image: the image synod-node from a fresh build; its base is Debian's, or made here where no registry is reached
docker-image: build
	@mkdir -p target/docker/image && cp $(BUILD)/node target/docker/image/node
	@if docker image inspect synod-base >/dev/null 2>&1; then base=synod-base; \
	elif docker pull --quiet debian:bookworm-slim >/dev/null 2>&1; then base=debian:bookworm-slim; \
	else scripts/docker-base synod-base && base=synod-base; fi; \
	docker build --target prebuilt --build-arg BASE=$$base --file testnet/Dockerfile --tag synod-node target/docker/image

## testnet-docker: four institutions as containers: one is killed, one sleeps, one is cut off; all must agree at the end
testnet-docker: docker-image
	@$(BUILD)/testnet docker run

## soak: run every scenario (but the largest) over many seeds: SEEDS=1..200; HOURS=2: new seeds, and kills of real nodes
soak:
ifneq ($(HOURS),)
	@$(CLANG) $(CARGO) build --release --quiet --workspace --bins
	@scripts/soak $(HOURS)
else
	@$(CARGO) build --release --quiet -p synod-testnet
	@$(BUILD)/testnet simulate $(filter-out testnet/scenarios/thousand_peers.toml,$(wildcard testnet/scenarios/*.toml)) --seeds $(SEEDS)
endif

## bench-aggregation: time rules and encodings beside memory speed and ByzFL; one JSON object a case
bench-aggregation:
	@CARGO="$(CARGO)" scripts/bench-aggregation

## reproduce: regenerate the evidence of a claim: CLAIM=byzantine-table|optimizers|weight-decay-mup QUICK=1 DATA=FOLDER
reproduce: deps
ifneq ($(filter optimizers weight-decay-mup,$(CLAIM)),)
	@$(CLANG) $(CARGO) build --release --quiet --workspace --example claims
	@$(BUILD)/examples/claims $(CLAIM) --dir target/$(CLAIM) --size $(or $(SIZE),$(if $(QUICK),tiny,full)) \
		$(addprefix --data ,$(or $(DATA),$(if $(SYNOD_DATA),$(SYNOD_DATA)/text/peps.jsonl.zst))) $(if $(THREADS),--jobs $(THREADS))
else
	@$(CARGO) build --release --quiet -p synod-testnet
	@$(BUILD)/testnet reproduce $(CLAIM) --dir target/$(CLAIM) $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA)) $(if $(THREADS),--threads $(THREADS))
endif

## bench-links: what share of emulated links the data plane reaches; one JSON object a link (SYNOD_LINK_MIB, SYNOD_LINK_REPETITIONS)
bench-links:
	@$(CLANG) $(CARGO) bench --quiet --workspace --bench links

## bench-exchange: rounds of real nodes beside averagings of hivemind and Flower (installed where they are missing), CASES="2x10000000"
bench-exchange:
	@$(CLANG) $(CARGO) build --release --quiet --workspace --bins
	@$(if $(CASES),CASES="$(CASES)") scripts/bench-exchange

## bench-engine: training steps beside PyTorch (installed where it is missing), CASES="5.8M 30M"; one JSON object a case
bench-engine:
	@scripts/bench-engine $(CASES)

## bench-data: time reading, tokenizing and packing on one core; one JSON object a case (SYNOD_DATA: real text)
bench-data:
	@$(CARGO) bench --quiet -p synod-training --no-default-features --features parquet --bench data

## bench-optimizers: time optimizer steps beside memory bandwidth, Newton-Schulz beside its products; one JSON object a case
bench-optimizers:
	@$(CARGO) bench --quiet -p synod-training --no-default-features --bench optimizers

## check-cuda: type-check the CUDA build on a machine without a GPU, a CUDA toolkit or a network
check-cuda: deps
	@$(CLANG) scripts/cuda check

## cuda-binary: build `node` for NVIDIA GPUs on a machine without a GPU, a CUDA toolkit or a network
cuda-binary: deps
	@$(CLANG) scripts/cuda binary

## clean-demo: remove what the demo made, fetched texts included
clean-demo:
	rm -rf $(DEMO)
