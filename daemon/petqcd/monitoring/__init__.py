"""What Prometheus and Grafana are told about petqc: ONE table of alerts, and dashboards; their files are made of them.

`python -m petqcd.monitoring` writes the files in `monitoring/` and docs/reference/alerts.md anew; a test compares them.
"""
