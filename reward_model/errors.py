"""Everything that can go wrong in this package.

RewardModelError
├── BadInput            what was sent cannot be scored or trained on
├── CheckpointError     a checkpoint cannot be read or written
│   └── IntegrityError  its files are not the ones its manifest lists
├── Unauthorized        the caller's key is not the server's
├── UnknownModel        no model goes by that name, or that version is gone
├── PreparationError    something must be installed or prepared first
└── ServingError        the server cannot answer now
    ├── ScorerOverloaded  too much is waiting
    ├── DeadlineExceeded  the answer would come too late
    └── EngineFailed    the forward pass failed, or its worker died
        └── OutOfMemory  its batch was too large for the device
"""

from __future__ import annotations


class RewardModelError(Exception):
    """Base of the tree; the message is meant for a person."""


class BadInput(RewardModelError):
    """What was sent cannot be scored or trained on; `param` names the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class CheckpointError(RewardModelError):
    """A checkpoint cannot be read or written."""


class IntegrityError(CheckpointError):
    """A checkpoint's files are not the ones its manifest lists."""


class UnknownModel(RewardModelError):
    """No model goes by that name, or that version is gone."""


class Unauthorized(RewardModelError):
    """The caller's key is not the server's."""


class PreparationError(RewardModelError):
    """Something must be installed or prepared first."""


class ServingError(RewardModelError):
    """The server cannot answer now."""


class ScorerOverloaded(ServingError):
    """Too much is waiting; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(ServingError):
    """The answer would come after its deadline."""


class EngineFailed(ServingError):
    """The forward pass failed, or the worker that runs it died."""


class OutOfMemory(EngineFailed):
    """The forward pass did not fit into memory; a smaller batch may."""
