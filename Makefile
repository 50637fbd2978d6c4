# FSVA. `make help` lists the targets; docs/operations.md says what each needs.
#
# Everything is pure Go and static (CGO_ENABLED=0), except libfsvamount.so, a
# small C library that only FS servers that call mount(2) themselves need, and
# the race detector. No target reads stdin.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
# The steps share two cores and one build cache: in order, not side by side.
.NOTPARALLEL:

# Static binaries; only the race target sets it to 1.
export CGO_ENABLED = 0

GO       ?= go
VERSION  ?= 0.1.0
PREFIX   ?= /usr/local
DESTDIR  ?=
FUZZTIME ?= 30s
BENCH    ?= .
COUNT    ?= 1

# -s -w drops the symbol table and DWARF, a quarter of runsc's 100 MB. Stack
# traces and pprof keep working; for a debugger: make build LDFLAGS=
LDFLAGS  ?= -s -w
# What `runsc --version` prints, and a checkpoint must match to be restored:
# the gVisor version of go.mod.
GVISOR    = $(shell sed -n 's/^\tgvisor.dev\/gvisor v//p' go.mod)
STAMP     = -X main.version=$(VERSION) -X gvisor.dev/gvisor/runsc/version.version=$(GVISOR)+fsva -X github.com/containerd/containerd/v2/version.Version=$(GVISOR)+fsva
GOBUILD   = $(GO) build -trimpath -ldflags "$(LDFLAGS) $(STAMP)"
# Shows that a long, silent command is alive.
PROGRESS  = scripts/with-progress

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z][a-z0-9]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z][a-z0-9]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

.PHONY: build
build: fsva runsc containerdshim shim ## bin/fsva, bin/runsc and containerd's shim (static), bin/libfsvamount.so if there is a C compiler

.PHONY: fsva
fsva: ## bin/fsva only
	@scripts/setup build
	@$(PROGRESS) "building bin/fsva" $(GOBUILD) -o bin/fsva ./gofer/cmd/fsva

.PHONY: runsc
runsc: ## bin/runsc only: gVisor's runsc plus the volume extension (1-3 min the first time)
	@scripts/setup build
	@$(PROGRESS) "building bin/runsc" $(GOBUILD) -o bin/runsc ./sentryglue/cmd/runsc

.PHONY: containerdshim
containerdshim: ## bin/containerd-shim-runsc-v1 only: gVisor's, for containerd
	@scripts/setup build
	@$(PROGRESS) "building bin/containerd-shim-runsc-v1" $(GOBUILD) -o bin/containerd-shim-runsc-v1 ./sentryglue/cmd/containerd-shim-runsc-v1

.PHONY: shim
shim: ## bin/libfsvamount.so only, which is preloaded into some FS servers
	@scripts/build-shim bin/libfsvamount.so

.PHONY: demo
demo: build ## the main job in one command: two volumes, one gVisor sandbox, what happened and how fast
	bin/fsva demo

.PHONY: check
check: lint build unit ## before every commit: gofmt, vet, build, unit tests (under 3 min warm)

.PHONY: test
test: ## everything CI runs: installs what is missing, build, vet, race, fuzz, unit, end-to-end
	@scripts/test

.PHONY: unit
unit: ## unit tests of every package
	@scripts/unit

.PHONY: e2e
e2e: build ## end-to-end tests: docker, our runsc, real FUSE servers (root)
	@scripts/setup test
	@scripts/e2e

.PHONY: soak
soak: build ## the long suite: 1,000,000 files, and the checker of file contents for long (root)
	@scripts/setup test
	@scripts/soak

.PHONY: tour
tour: build ## the commands of README.md's five-minute tour (root)
	@scripts/tour

.PHONY: race
race: ## the packages that have goroutines, under the race detector (needs gcc)
	@scripts/race

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s)
	@scripts/fuzz $(FUZZTIME)

.PHONY: bench
bench: build ## the benchmark matrix: tables and a plot in bench-results/ (root); QUICK=1, ARGS='--rows=… --columns=…'
	@scripts/setup bench
	@scripts/bench $(if $(QUICK),--quick) $(ARGS)

.PHONY: microbench
microbench: build ## Go benchmarks with their baselines; BENCH=regexp COUNT=n
	@scripts/microbench '$(BENCH)' '$(COUNT)'

.PHONY: bazel
bazel: ## write the BUILD.bazel file of every Go package anew
	@$(GO) run ./scripts/bazelgen

.PHONY: lint
lint: ## gofmt, BUILD.bazel files, go vet, end-to-end tests included
	@scripts/lint

.PHONY: tidy
tidy: ## fail if go.mod or go.sum need `go mod tidy` (network)
	$(GO) mod tidy -diff

.PHONY: setup
setup: ## install the Debian packages and Go modules that `make test` needs
	@scripts/setup test

.PHONY: install
install: build ## copy everything under DESTDIR/PREFIX (/usr/local): scripts/install-files is the list
	@scripts/install-files "$(DESTDIR)" "$(PREFIX)"

.PHONY: man
man: fsva ## man pages of all commands to bin/man
	rm -rf bin/man
	bin/fsva man bin/man

.PHONY: deb
deb: build ## a Debian package of everything, bin/fsva_VERSION_ARCH.deb
	@$(PROGRESS) "making the package" scripts/deb "$(VERSION)" bin

.PHONY: clean
clean: ## remove bin/
	rm -rf bin
