"""Files scored in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from reward_model.offline.rows import Defaults, Row, read_windows
from reward_model.offline.scoring import PromptScorer


class _Progress(Protocol):
    def __call__(self, lines: int) -> None:
        """Told after each window how many lines are scored."""


def local_scores(
    path: str, scorer: PromptScorer, defaults: Defaults | None = None, progress: _Progress | None = None
) -> Iterator[dict[str, Any]]:
    """Each line with `scores`, `probabilities` and `orm`, in order; BadInput names the line at fault."""
    done = 0
    for window in read_windows(path, defaults or Defaults()):
        for row, added in zip(window, score_rows(scorer, window), strict=True):
            yield row.raw | added
        done += len(window)
        if progress is not None:
            progress(done)


def score_rows(scorer: PromptScorer, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What is added to each row: the scores of its completions, their probabilities, and the model's name."""
    added = []
    for row, scores in zip(rows, scorer.scores([row.prompt() for row in rows]), strict=True):
        probabilities = scorer.probabilities(scores, row.request.route, row.request.stopping_rule)
        added.append({"scores": scores, "probabilities": probabilities, "orm": scorer.model.id})
    return added
