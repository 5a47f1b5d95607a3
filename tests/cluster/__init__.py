"""A real control plane on this machine: etcd, Kubernetes' API server and controllers, Knative and KServe."""
