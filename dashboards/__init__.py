"""The three dashboards as code; `make dashboards` writes their JSON into manifests/base/monitoring.

Queries work on a laptop and on a cluster: where the two differ, `or` joins what each of them has.
"""
