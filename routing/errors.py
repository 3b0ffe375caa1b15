"""Everything that can go wrong in this package.

RoutingError
├── BadRoutingInput  a file, a line or a rule is not what it must be
└── BundleError      a router's folder cannot be read, or is not the one its manifest describes
"""

from __future__ import annotations


class RoutingError(Exception):
    """Base of the tree; the message is meant for a person."""


class BadRoutingInput(RoutingError):
    """A file, a line or a rule is not what it must be; the message says where."""


class BundleError(RoutingError):
    """A router's folder cannot be read, or its files are not the ones its manifest lists."""
