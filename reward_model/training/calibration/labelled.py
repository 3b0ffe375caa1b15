"""Labelled replies with their scores, as arrays, and which of them serving would have sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reward_model.calibration import Selection, instructions_digest, route_of
from reward_model.errors import BadInput
from reward_model.labels import LabelledReply, as_completion
from reward_model.selection import Contender, ranking
from reward_model.stopping import ALL_SCORED

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Population = Literal["candidates", "winners"]


@dataclass(frozen=True)
class Labelled:
    """Scored replies: arrays of one length; `winner` marks the candidate that selection would serve."""

    scores: Floats
    labels: Floats
    groups: NDArray[np.int64]
    winner: Mask
    routes: NDArray[np.str_]

    def population(self, name: Population) -> Mask:
        """Which rows are of it."""
        return self.winner if name == "winners" else np.ones(len(self.scores), dtype=bool)

    def of_route(self, route: str) -> Mask:
        """Which rows took the route."""
        return np.asarray(self.routes == route)

    def all_routes(self) -> list[str]:
        """Every route that a row took, sorted."""
        return sorted(set(self.routes.tolist()))


def labelled(replies: Sequence[LabelledReply], scores: Floats, stopped: Mask | None = None) -> Labelled:
    """The replies as arrays, each prompt's winner found; `stopped` are those that a stopping rule did not let end."""
    names = {name: number for number, name in enumerate(sorted({reply.group for reply in replies}))}
    return Labelled(
        scores=scores,
        labels=np.array([reply.acceptable for reply in replies], dtype=np.float64),
        groups=np.array([names[reply.group] for reply in replies]),
        winner=winners(scores, replies, stopped),
        routes=np.array([route_of(reply.bucket) for reply in replies]),
    )


def winners(scores: Floats, replies: Sequence[LabelledReply], stopped: Mask | None = None) -> Mask:
    """Each prompt's reply that serving would select, where the labels tell which it is.

    Where all n candidates were judged: the first by `selection.ranking`. Where only some were: the one whose rank says
    that it had won, and one judged alone without a rank; the best of a few is not the best of n. Where a stopping rule
    has `stopped` candidates, the others are selected from, and only prompts whose candidates were all judged have a
    winner.
    """
    chosen = np.zeros(len(replies), dtype=bool)
    for members in by_prompt(replies):
        complete = all_judged([replies[i] for i in members])
        best: int | None
        if complete:
            best = _selected(scores, replies, [i for i in members if stopped is None or not stopped[i]])
        else:
            best = _recorded(replies, members) if stopped is None else None
        if best is not None:
            chosen[best] = True
    return chosen


def by_prompt(replies: Sequence[LabelledReply]) -> list[list[int]]:
    """Places of the replies of each prompt."""
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, reply in enumerate(replies):
        places[reply.prompt_key()].append(index)
    return list(places.values())


def all_judged(members: Sequence[LabelledReply]) -> bool:
    """Whether these replies to one prompt are all the candidates that were sampled."""
    selection = members[0].selection
    return selection is None or len(members) >= selection.n


def _selected(scores: Floats, replies: Sequence[LabelledReply], members: list[int]) -> int:
    contenders = [
        Contender(
            score=float(scores[i]),
            tokens=replies[i].completion_tokens or 0,
            empty=as_completion(replies[i].completion).empty,
            cut=replies[i].finish_reason == "length",
        )
        for i in members
    ]
    return members[next(ranking(contenders))]


def _recorded(replies: Sequence[LabelledReply], members: list[int]) -> int | None:
    ranks = {i: selection.rank for i in members if (selection := replies[i].selection)}
    alone = len(members) == 1 and ranks.get(members[0]) is None
    return members[0] if alone else next((i for i, rank in ranks.items() if rank == 1), None)


def shared_selection(replies: Sequence[LabelledReply]) -> Selection:
    """The one selection policy behind all the replies; BadInput when they differ or say nothing of it."""
    seen = {(r.selection.n, r.selection.temperature, r.selection.policy) if r.selection else None for r in replies}
    if not replies or None in seen or len(seen) != 1:
        raise BadInput(
            "every labelled reply must carry the same selection (n, temperature, policy): a "
            f"probability holds under one policy only; found {sorted(map(str, seen))}"
        )
    n, temperature, policy = next(key for key in seen if key)
    hows = [reply.selection for reply in replies if reply.selection]
    shared = {name: _only({getattr(how, name) for how in hows}) for name in _RECORDED}
    instructions = _only({instructions_digest([m.model_dump() for m in reply.prompt]) for reply in replies})
    return Selection(
        n=n, stopping_rule=ALL_SCORED, temperature=temperature, policy=policy, instructions=instructions, **shared
    )


# What a selection says of its sampling beside temperature and policy, if all its labels were sampled alike.
_RECORDED = ("policy_revision", "top_p", "min_p", "max_tokens")


def _only(values: set[Any]) -> Any:
    """The one value there is; None if there are several."""
    return next(iter(values)) if len(values) == 1 else None
