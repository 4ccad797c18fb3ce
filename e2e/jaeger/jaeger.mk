# The repository's Makefile includes this file: Jaeger, which takes the driver's traces.
.PHONY: jaeger

jaeger:
	@echo "Building $@ in $(CSI_NFS_CACHE)/jaeger"
	@cd e2e/jaeger && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" \
		-o $(CSI_NFS_CACHE)/jaeger/jaeger github.com/jaegertracing/jaeger/cmd/all-in-one
