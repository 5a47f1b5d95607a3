"""The three Grafana dashboards as code; `make dashboards` writes their JSON into manifests/base/monitoring.

Queries work on a laptop and on a cluster: where their metrics differ, `or` joins the two.
"""
