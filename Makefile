# `make help` lists the targets. Each target installs what it needs, which requires root on Debian once (e2e/README.md).
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: help demo test test-unit e2e e2e-older-kernel e2e-own-client e2e-selinux sanity bench lint lint-scripts \
	lint-workflows audit setup hooks build csi-sanity pictures fuzz

# The directory for downloads and tools outside the repository.
export CSI_NFS_CACHE ?= $(HOME)/.cache/csi-nfs
# The driver binary that the end-to-end programs start.
export CSI_NFS_DRIVER = $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/x86_64-unknown-linux-gnu/release/csi-nfs

# cargo passes each program that it has built to this runner, which runs the program on a kernel with NFS.
IN_VM := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(CURDIR)/e2e/vm/run
# Runs only the end-to-end tests whose names contain this, for example `make e2e TESTS=unreachable::`.
TESTS ?=
# The approximate number of entries in the trees of `round_trip::`. The default is 1,000 to 3,000.
ENTRIES ?=
# Fuzzes only these targets, for example `make fuzz FUZZ="archive rpc"`, each for so many seconds.
FUZZ ?=
SECONDS_EACH ?= 60
# Runs only one part of the benchmark: `calls`, `requests`, `scale`, `quotas`, `copies`, `volumes`, `many`, `fsgroup`,
# `soak`, `slow`, `crowded`, `trash`, `million`. The last four run only when they are named.
BENCH ?=
# The number of volumes of `crowded` (100,000), and of files of `trash` and `million` (1,000,000), for a quick trial.
export VOLUMES
export FILES
# The round trip of the benchmark's network, and the time of its disk's flushes, in milliseconds.
export RTT
export FLUSH

help:  ## prints this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: setup build  ## shows the driver's main job, step by step, on a real NFS server
	@$(IN_VM) cargo run --locked --quiet --features e2e --example demo

test: test-unit test-chart e2e e2e-older-kernel e2e-own-client e2e-selinux  ## runs every test except those on a Kubernetes cluster

# The number of races of each kind: two controllers with volumes, with snapshots, with archives, and with an agent.
test-unit: export CSI_NFS_RACES ?= 20000
# The number of random histories of calls, which a reference model judges (src/testing/model).
test-unit: export CSI_NFS_HISTORIES ?= 20000
test-unit:  ## runs the tests that need no NFS
	cargo test --locked
	cd e2e/pictures && cargo test --locked

e2e: setup build csi-sanity jaeger prometheus promtool  ## runs the tests on real NFS servers, including csi-sanity
	$(IN_VM) CSI_NFS_E2E_SECONDS=2700 $(if $(ENTRIES),CSI_NFS_E2E_ENTRIES=$(ENTRIES)) \
		cargo test --locked --features e2e --test e2e -- $(TESTS)

# The tests of what the driver does differently on a kernel without fsopen(2) and openat2(2).
e2e-older-kernel: setup build  ## runs the tests of mounting and publishing as on a kernel of 4.18
	$(IN_VM) CSI_NFS_E2E_SECONDS=1800 CSI_NFS_E2E_KERNEL=older cargo test --locked --features e2e --test e2e -- \
		mounting:: unmounting:: fs_group:: in_force:: versions:: addresses:: share_alone:: health:: access:: \
		provision:: delete:: groups:: round_trip:: snapshots::

# What goes through the controller's connection to exports; where the own client cannot serve, the kernel's does.
e2e-own-client: setup build csi-sanity  ## runs the tests of the controller with the driver's own NFS client
	$(IN_VM) CSI_NFS_E2E_SECONDS=2400 CSI_NFS_CLIENT=auto cargo test --locked --features e2e --test e2e -- \
		provision:: delete:: idempotency:: list:: snapshots:: groups:: round_trip:: copy:: archives:: crashes:: \
		concurrent_controllers:: overcommit:: sanity:: servers:: share_alone:: refused_copies:: bad_input:: \
		quota:: quota_copies:: process:: addresses:: unreachable::

e2e-selinux: setup build  ## runs the tests of labels on a kernel with a policy of SELinux
	@.ci/packages secilc
	$(IN_VM) CSI_NFS_E2E_VM=always cargo test --locked --features e2e --test selinux

sanity: TESTS = sanity::
sanity: e2e  ## runs csi-sanity only

# cargo builds the driver in the profile of benchmarks, too, which must not take the place of the release build.
bench: setup build  ## measures the speed of the driver, compared with the system calls that it needs
	$(IN_VM) CSI_NFS_E2E_SECONDS=2800 cargo bench --locked --features e2e \
		--target-dir $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/bench --bench speed -- $(BENCH)

fuzz: export SECONDS_EACH := $(SECONDS_EACH)
fuzz:  ## feeds random input to every parser of hostile input, a minute to each
	@.ci/packages g++
	@fuzz/run $(FUZZ)

pictures:  ## draws the pictures of the documentation anew, from the figures in the repository
	cd e2e/pictures && cargo run --locked --quiet

lint: lint-scripts lint-workflows $(CSI_NFS_CACHE)/tools/bin/cargo-deny  ## checks format, clippy, docs, scripts, dependencies
	cargo fmt --check
	cargo clippy --locked --all-targets --all-features -- -D warnings
	cd e2e/kubernetes && cargo fmt --check && cargo clippy --locked --all-targets -- -D warnings
	cd e2e/pictures && cargo fmt --check && cargo clippy --locked --all-targets -- -D warnings
	cd fuzz && cargo fmt --check && cargo clippy --locked --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
	$(CSI_NFS_CACHE)/tools/bin/cargo-deny --locked check bans licenses sources

# Checks every script of the repository: each file with a line that names a shell.
lint-scripts:
	@.ci/packages shellcheck
	git grep --files-with-matches -E '^#!.*sh$$' | xargs shellcheck

# Checks the workflows for continuous integration and releases, with the scripts in them.
lint-workflows: $(CSI_NFS_CACHE)/tools/bin/actionlint
	@.ci/packages shellcheck
	$<

audit: $(CSI_NFS_CACHE)/tools/bin/cargo-deny  ## checks the dependencies for vulnerabilities (downloads advisories)
	$< --locked check advisories

hooks:  ## makes git check the format of each commit in this clone (git config core.hooksPath)
	git config core.hooksPath .githooks

setup:  ## installs what the end-to-end tests need: Debian packages, and a kernel with NFS; prints what it installs
	@e2e/vm/install

build:
	@cargo build --locked --release

csi-sanity:
	@echo "Building csi-sanity in $(CSI_NFS_CACHE)"
	@cd e2e/sanity && CGO_ENABLED=0 go build -trimpath -o $(CSI_NFS_CACHE)/csi-sanity \
		github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity

$(CSI_NFS_CACHE)/tools/bin/cargo-deny:
	cargo install --locked --quiet --root $(CSI_NFS_CACHE)/tools --version 0.20.2 cargo-deny

$(CSI_NFS_CACHE)/tools/bin/actionlint:
	GOBIN=$(@D) go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

include deploy/deploy.mk e2e/jaeger/jaeger.mk e2e/kubernetes/kubernetes.mk e2e/prometheus/prometheus.mk
