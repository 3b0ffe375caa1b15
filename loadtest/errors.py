"""What can go wrong before a load test starts.

LoadTestError
├── BadWorkload     the rate, duration, share or prompt file makes no workload
└── BadTarget       the URL is malformed, unreachable, or refuses the key

Whatever happens to a request of a running test is a measurement, not an exception.
"""

from __future__ import annotations


class LoadTestError(Exception):
    """Base of the tree; the message says what was wrong and what to do."""


class BadWorkload(LoadTestError):
    """The options or the prompt file make no workload."""


class BadTarget(LoadTestError):
    """The target cannot be tested."""
