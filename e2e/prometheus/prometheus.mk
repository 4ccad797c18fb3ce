# The repository's Makefile includes this file: Prometheus, which reads what the driver measures.
.PHONY: prometheus promtool test-rules

# The tags leave out the clients of clouds, which find targets there.
prometheus promtool:
	@echo "Building $@ in $(CSI_NFS_CACHE)/prometheus"
	@cd e2e/prometheus && CGO_ENABLED=0 go build -trimpath -tags remove_all_sd -ldflags "-s -w" \
		-o $(CSI_NFS_CACHE)/prometheus/ github.com/prometheus/prometheus/cmd/$@

test-rules: promtool  ## tests the chart's alerts with the series of outages
	@$(CSI_NFS_CACHE)/prometheus/promtool check rules --lint=all --lint-fatal deploy/helm/csi-nfs/files/rules.yaml
	@$(CSI_NFS_CACHE)/prometheus/promtool test rules e2e/prometheus/alerts/*.yaml
