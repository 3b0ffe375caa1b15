"""Text of docs/reference/metrics.md, from the gateway's registry of metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from service.telemetry.metrics import Metrics

INTRODUCTION = """# Metrics

The gateway serves these at `GET /metrics` in Prometheus' text format. Labels hold names of the operator's and the
gateway's own, never a client's text. Alerts on them are in `helm/alerts.yaml`. The policy (vLLM) and the scorer serve
metrics of their own at their `/metrics`.

| metric | type | labels | meaning |
|---|---|---|---|"""


def page() -> str:
    """The page."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    groups = [vars(group) for name, group in vars(metrics).items() if name != "registry" and name[0] != "_"]
    labels = {metric._name: metric._labelnames for group in groups for metric in group.values()}
    rows = [INTRODUCTION]
    for family in sorted(registry.collect(), key=lambda family: family.name):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown = ", ".join(f"`{label}`" for label in labels.get(family.name, ()))
        rows.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
    return "\n".join([*rows, ""])
