# The repository's Makefile includes this file: the container image and the manifests.
.PHONY: image manifests

image: build  ## builds the container image as a tar, without a container engine (ARCH=arm64 with a binary for it)
	@deploy/driver-image "" $(or $(ARCH),amd64)

manifests:  ## renders deploy/manifests from the chart
	@e2e/kubernetes/build helm
	@HELM=$(CSI_NFS_CACHE)/kubernetes/bin/helm deploy/render
