# Included by the Makefile of the repository: the driver on a real Kubernetes cluster.
.PHONY: e2e-kubernetes demo-kubernetes test-chart

e2e-kubernetes: release  ## the scenarios on a real Kubernetes cluster, made for it here (SCENARIOS="workloads failures")
	@e2e/kubernetes/run $(SCENARIOS)

demo-kubernetes: release  ## a Kubernetes cluster with the driver on it, left up to be used
	@e2e/kubernetes/run demo

test-chart:  ## what the Helm chart renders and refuses
	@e2e/kubernetes/build helm
	cd e2e/kubernetes && cargo test --locked --test chart
