"""Which reply serving would have sent, worked out by hand."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from reward_model.errors import BadInput
from reward_model.labels import LabelledReply
from reward_model.training.calibration.labelled import labelled, shared_selection, winners

SELECTION = {"n": 2, "policy": "tiny", "temperature": 0.8}


def _reply(group: int, index: int, acceptable: bool = True, **changes: Any) -> LabelledReply:
    row = {
        "id": f"{group}.{index}",
        "prompt": [{"role": "user", "content": f"q{group}"}],
        "completion": f"reply {index}",
        "acceptable": acceptable,
        "group": f"g{group}",
        "bucket": "billing",
        "selection": SELECTION,
    }
    return LabelledReply.model_validate({**row, **changes})


def test_the_winner_is_what_serving_selects() -> None:
    paraphrase: dict[str, Any] = {"prompt": [{"role": "user", "content": "a paraphrase"}]}
    replies = [
        _reply(0, 0, completion_tokens=9),
        _reply(0, 1, completion_tokens=4),
        _reply(0, 2, completion_tokens=5),
        _reply(1, 0),
        _reply(1, 1),
        _reply(1, 2, **paraphrase),
        _reply(1, 3, **paraphrase),
    ]
    scores = np.array([2.0, 2.0 - 5e-7, 1.0, -3.0, -4.0, 0.0, 1.0])
    # The first two tie within 1e-6 and the second has fewer tokens; a paraphrase is a prompt of its own.
    assert winners(scores, replies).tolist() == [False, True, False, True, False, False, True]


def test_a_reply_that_was_cut_off_wins_only_among_its_like() -> None:
    cut: dict[str, Any] = {"finish_reason": "length"}
    ended: dict[str, Any] = {"finish_reason": "stop"}
    replies = [_reply(0, 0, **cut), _reply(0, 1, **ended), _reply(1, 0, **cut), _reply(1, 1, **cut)]
    assert winners(np.array([3.0, 1.0, 3.0, 1.0]), replies).tolist() == [False, True, True, False]


def _ranked(rank: int | None) -> dict[str, Any]:
    return {"selection": {**SELECTION, "n": 4, "rank": rank}}


def test_a_reply_judged_alone_is_a_winner_unless_its_rank_says_not() -> None:
    replies = [_reply(i, 0, **_ranked(rank)) for i, rank in enumerate([1, 2, None])]
    assert winners(np.zeros(3), replies).tolist() == [True, False, True]


def test_the_best_of_a_few_is_not_the_best_of_n() -> None:
    # Two of four judged: the one that is recorded as the winner counts, whatever the other scores; else none does.
    known = [_reply(0, 0, **_ranked(1)), _reply(0, 1, **_ranked(3))]
    unknown = [_reply(1, 0, **_ranked(None)), _reply(1, 1, **_ranked(None))]
    assert winners(np.array([1.0, 2.0, 1.0, 2.0]), known + unknown).tolist() == [True, False, False, False]


def test_refunds_are_billing_and_groups_are_numbered() -> None:
    replies = [_reply(0, 0, bucket="refund"), _reply(0, 1, False, bucket="refund"), _reply(1, 0, bucket="fraud")]
    data = labelled(replies, np.array([1.0, 2.0, 3.0]))
    assert data.routes.tolist() == ["billing", "billing", "fraud"]
    assert data.all_routes() == ["billing", "fraud"]
    assert data.groups.tolist() == [0, 0, 1]
    assert data.labels.tolist() == [1.0, 0.0, 1.0]
    assert data.population("winners").tolist() == [False, True, True]
    assert data.population("candidates").all()
    assert data.of_route("fraud").tolist() == [False, False, True]


def test_labels_of_two_selection_policies_are_not_mixed() -> None:
    replies = [_reply(0, 0), _reply(0, 1)]
    expected = {**SELECTION, "stopping_rule": "all_scored", "instructions": ""}
    assert shared_selection(replies).model_dump(exclude_none=True) == expected
    other, none = _reply(1, 0, selection={**SELECTION, "n": 8}), _reply(1, 0, selection=None)
    for wrong in ([*replies, other], [*replies, none], []):
        with pytest.raises(BadInput, match="same selection"):
            shared_selection(wrong)


def test_what_all_labels_share_is_recorded_and_what_differs_is_not() -> None:
    system = {"role": "system", "content": "Refunds take five days."}
    prompt = [system, {"role": "user", "content": "q"}]
    sampled = {**SELECTION, "top_p": 0.9, "max_tokens": 160, "policy_revision": "2"}
    replies = [_reply(i, 0, prompt=prompt, selection=sampled) for i in range(2)]
    digest = hashlib.sha256(b"Refunds take five days.").hexdigest()[:16]
    fitted = shared_selection(replies)
    assert (fitted.top_p, fitted.min_p, fitted.max_tokens, fitted.policy_revision) == (0.9, None, 160, "2")
    assert fitted.instructions == digest
    mixed = shared_selection([*replies, _reply(3, 0, selection={**sampled, "max_tokens": 128})])
    assert (mixed.top_p, mixed.max_tokens, mixed.instructions) == (0.9, None, None)
