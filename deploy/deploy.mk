# The repository's Makefile includes this file: the container image, the manifests, and releases.
.PHONY: image manifests release release-twice e2e-release

# The directory for what a release consists of (deploy/release), the architectures that it is for, and the name under
# which its image will be published.
RELEASE = $(CURDIR)/target/release-$(or $(VERSION),$(error say which version, for example VERSION=0.2.0))
ARCHS ?= amd64 arm64
export REPOSITORY ?= ghcr.io/csi-nfs/csi-nfs

image: build  ## builds the container image as a tar, without a container engine (ARCH=arm64 with a binary for it)
	@deploy/driver-image "" $(or $(ARCH),amd64)

manifests:  ## renders deploy/manifests from the chart
	@e2e/kubernetes/build helm
	@HELM=$(CSI_NFS_CACHE)/kubernetes/bin/helm deploy/render

release:  ## builds what a release consists of: binaries, image, chart, bills of materials (VERSION=0.2.0)
	@deploy/release $(VERSION) $(RELEASE) $(ARCHS)

release-twice:  ## builds the same release once more, in another directory, and compares the two (VERSION=0.2.0)
	@clone=$$(mktemp -d); trap 'rm -rf "$$clone"' EXIT; \
	git clone --quiet --no-local . "$$clone"; git -C "$$clone" checkout --quiet "$$(git rev-parse HEAD)"; \
	CARGO_TARGET_DIR=$$clone/target "$$clone/deploy/release" $(VERSION) "$$clone/target/out" $(ARCHS); \
	diff --recursive $(RELEASE) "$$clone/target/out"; echo "Both builds are the same, byte by byte."

e2e-release:  ## publishes the release on this machine, verifies it, and installs it on a cluster (VERSION=0.2.0)
	@e2e/release/run $(RELEASE)
	@CSI_NFS_E2E_RELEASE=$(RELEASE) e2e/kubernetes/run workloads
