# The repository's Makefile includes this file: the driver on a real Kubernetes cluster.
.PHONY: e2e-kubernetes demo-kubernetes test-chart

e2e-kubernetes: build  ## runs scenarios on a real Kubernetes cluster that it boots (SCENARIOS="workloads failures")
	@e2e/kubernetes/run $(SCENARIOS)

demo-kubernetes: build  ## boots a Kubernetes cluster with the driver and leaves it up
	@e2e/kubernetes/run demo

test-chart: test-rules  ## tests the Helm chart without a cluster
	@e2e/kubernetes/build helm
	cd e2e/kubernetes && cargo test --locked --test chart --test alerts --test dashboards --test examples
