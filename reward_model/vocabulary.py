"""Words that the gateway's records and the trainer's data share. Torch-free."""

from __future__ import annotations

from typing import Literal

# Buckets of pairs that are of high risk in data that says nothing of risk itself.
HIGH_RISK = ("billing", "refund", "fraud")

# By what a reply is judged (docs/explanation/annotation.md).
Dimension = Literal["helpfulness", "honesty", "harmlessness", "brevity", "policy_clarity"]
