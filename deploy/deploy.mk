# Included by the Makefile of the repository: what is shipped.
.PHONY: image manifests

image: release  ## the container image as a tar, with no container engine (ARCH=arm64 with a binary built for it)
	@deploy/driver-image "" $(or $(ARCH),amd64)

manifests:  ## deploy/manifests, from the chart
	@e2e/kubernetes/build helm
	@HELM=$(CSI_NFS_CACHE)/kubernetes/bin/helm deploy/render
