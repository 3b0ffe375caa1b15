"""What one judgement says, as rows of the trainer's schemas: values in, values out."""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from service.audits.judging import Judged
from service.store.rows import Row

# Written by a person, or greedily: to train on, not to calibrate the best of n on.
_NOT_SAMPLED: Row = {"selection": None, "split": "train"}
# Guideline: what is rated 3 or more can be sent.
_SENDABLE_FROM = 3


class StoredAnswer:
    """An answer with its candidates' texts."""

    def __init__(self, row: Row, members: Mapping[int, Row]) -> None:
        self.row, self.members = row, members

    def completion(self, index: int | None) -> Any:
        """A candidate as the trainer reads it; None where its text was not kept."""
        candidate = self.members.get(index) if index is not None else None
        return None if candidate is None else _completion(candidate["content"], candidate["tool_calls"])

    def selection(self, index: int) -> Row:
        """How candidate `index` came to be chosen; only the winner's rank is known for sure."""
        return _selection(self.row, index, 1 if index == self.row["winner"] else None)


def review_pairs(ticket: Row, answer: StoredAnswer) -> Iterator[Row]:
    """Of a verdict that chose or wrote another reply than the winner."""
    winner = answer.completion(answer.row["winner"])
    better = answer.completion(ticket["chosen"]) if ticket["verdict"] == "choose" else ticket["text"]
    if ticket["verdict"] not in ("choose", "edit") or winner is None or better in (None, winner):
        return
    vote = {"id": ticket["decided_by"], "vote": "chosen", "at": _time(ticket["decided_at_ms"])}
    origin = {"chosen": "human" if ticket["verdict"] == "edit" else "policy", "rejected": "policy"}
    own = {"label": "review", "annotators": [vote], "origin": origin}
    yield {"id": ticket["id"], "chosen": better, "rejected": winner, **own, **_of(answer.row)}


def review_replies(ticket: Row, answer: StoredAnswer) -> Iterator[Row]:
    """Of a verdict: the winner, and what was chosen or written in its place."""
    shared = {"label": "review", "annotator": ticket["decided_by"], "chance": ticket["chance"]}
    shared |= _of(answer.row)
    winner, chosen = answer.row["winner"], ticket["chosen"]
    if (completion := answer.completion(winner)) is not None and ticket["acceptable"] is not None:
        name = {"id": f"{ticket['id']}:winner", "completion": completion, "acceptable": ticket["acceptable"]}
        yield name | _ended(answer.members[winner]) | {"selection": answer.selection(winner)} | shared
    if ticket["verdict"] == "choose" and (completion := answer.completion(chosen)) is not None:
        name = {"id": f"{ticket['id']}:chosen", "completion": completion, "acceptable": True}
        yield name | _ended(answer.members[chosen]) | {"selection": answer.selection(chosen)} | shared
    if ticket["verdict"] == "edit":
        yield {
            "id": f"{ticket['id']}:written",
            "completion": ticket["text"],
            "acceptable": True,
            **shared,
            **_NOT_SAMPLED,
        }


def feedback_pairs(opinion: Row, answer: StoredAnswer) -> Iterator[Row]:
    """Of a preference between two candidates."""
    chosen, rejected = (answer.completion(opinion[name]) for name in ("preferred", "rejected"))
    if chosen is None or rejected is None or chosen == rejected:
        return
    vote = {"id": opinion["tenant"], "vote": "chosen", "at": _time(opinion["at_ms"])}
    own = {"label": "human", "annotators": [vote], "origin": {"chosen": "policy", "rejected": "policy"}}
    yield {"id": opinion["id"], "chosen": chosen, "rejected": rejected, **own, **_of(answer.row)}


def feedback_replies(opinion: Row, answer: StoredAnswer) -> Iterator[Row]:
    """Of answers that were sent: who gives feedback chooses to, so its chance is not known."""
    winner, thumb, rating = answer.row["winner"], opinion["thumb"], opinion["rating"]
    completion = answer.completion(winner)
    if answer.row["sent"] != "winner" or completion is None or (thumb is None and rating is None):
        return
    sendable = rating >= _SENDABLE_FROM if rating is not None else thumb == "up"
    judgement = {"acceptable": sendable, "rating": rating, "annotator": opinion["tenant"], "label": "human"}
    own = {"id": opinion["id"], "completion": completion, "selection": answer.selection(winner), **judgement}
    yield own | _ended(answer.members[winner]) | _of(answer.row)


def audit_pairs(item: Sequence[Judged]) -> Iterator[Row]:
    """Of the labels of one item."""
    row = item[0].item
    winner, other = _completion_of(row["winner_reply"]), _completion_of(row["other_reply"])
    votes: Counter[str] = Counter(one.preferred or "tie" for one in item)
    if winner == other or not row["labels_wanted"]:
        return
    # Where as many prefer the one as the other, nobody can say which is better.
    won = votes["winner"] - votes["other"]
    first, second = ("winner", "other") if won >= 0 else ("other", "winner")
    named = {first: "chosen", second: "rejected", "tie": "tie"}
    texts = {"winner": winner, "other": other}
    of = _of(_response(row))
    yield {
        "id": row["id"],
        "chosen": texts[first],
        "rejected": texts[second],
        "outcome": "win" if won else "tie",
        "label": "audit",
        "strength": max(0.5, votes[first] / len(item)),
        "annotators": [
            {"id": one.label["annotator"], "vote": named[one.preferred or "tie"], "at": _time(one.label["at_ms"])}
            for one in item
            if one.label is not None
        ],
        "dimensions": _dimensions(item, first),
        "origin": {"chosen": "policy", "rejected": "policy"},
        "shown_first": named["winner" if row["winner_left"] else "other"],
        **of,
    }


def _dimensions(item: Sequence[Judged], first: str) -> dict[str, int]:
    """1 where the chosen reply is better, -1 where the other is; where annotators differ, 0."""
    signs: dict[str, set[int]] = {}
    for one in item:
        left = "winner" if one.item["winner_left"] else "other"
        for name, side in (one.label or {"dimensions": {}})["dimensions"].items():
            for_chosen = (side == "left") == (left == first)
            signs.setdefault(name, set()).add(0 if side == "tie" else 1 if for_chosen else -1)
    return {name: seen.pop() if len(seen) == 1 else 0 for name, seen in signs.items()}


def audit_replies(item: Sequence[Judged]) -> Iterator[Row]:
    """Of the labels of one item: either reply, where annotators do not differ."""
    row = item[0].item
    answer = _response(row)
    for which, index, rank in (("winner", answer["winner"], 1), ("other", row["other"], None)):
        verdicts = {
            one.label["annotator"]: value
            for one in item
            if one.label is not None
            and (value := one.acceptable("winner" if which == "winner" else "other")) is not None
        }
        # Two who differ leave it open.
        if len(set(verdicts.values())) != 1:
            continue
        reply = {
            "id": f"{row['id']}:{which}",
            "completion": _completion_of(row[f"{which}_reply"]),
            "acceptable": next(iter(verdicts.values())),
            "annotator": "+".join(sorted(verdicts)),
            "label": "audit",
            "chance": 1 / row["weight"],
            **_of(answer),
        }
        if which == "winner":
            reply |= {"finish_reason": row["winner_finish_reason"]}
        yield reply | (_NOT_SAMPLED if index is None else {"selection": _selection(answer, index, rank)})


def _of(row: Row) -> Row:
    """What every label of an answer has."""
    prompt = row["prompt"]
    asked = orjson.dumps([message for message in prompt if message["role"] in ("system", "user")][:2])
    return {
        "prompt": prompt,
        "bucket": row["route"],
        "locale": row["locale"] or "en",
        "source": "winnow",
        # A conversation is one group from its first question on, so that it never spans two splits.
        "group": f"winnow-{hashlib.sha256(asked).hexdigest()[:16]}",
        "redacted": row["redacted"],
    }


def _selection(row: Row, index: int, rank: int | None) -> Row:
    versions, parameters = row["versions"], row["parameters"]
    selection = {"n": row["n"], "rank": rank, "policy": versions.get("policy") or "unknown", "index": index}
    selection |= {name: parameters.get(name) for name in ("temperature", "top_p", "min_p", "max_tokens")}
    return selection | {"policy_revision": versions.get("policy_revision")}


def _completion(content: str | None, tool_calls: Any) -> Any:
    """A text by itself where there is nothing but text; None where it was not kept."""
    if not tool_calls:
        return content
    return {"content": content, "tool_calls": tool_calls}


def _completion_of(reply: Row) -> Any:
    return _completion(reply["content"], reply.get("tool_calls"))


def _ended(candidate: Row) -> Row:
    return {name: candidate[name] for name in ("finish_reason", "completion_tokens")}


def _response(item: Row) -> Row:
    """The answer that an audit's item was drawn from."""
    return {name.removeprefix("response."): value for name, value in item.items() if name.startswith("response.")}


def _time(at_ms: int) -> str:
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).isoformat()
