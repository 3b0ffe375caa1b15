"""Agreement with a language model as judge: a smoke test, not a substitute for people.

Any OpenAI-compatible endpoint will do. Each pair is asked in both orders; a judge that names the same side twice has
judged the side, not the reply, and its answer counts as a tie (Zheng et al., 2023).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from reward_model.errors import BadInput, RewardModelError
from reward_model.estimates import wilson
from reward_model.labels import Pair, as_completion

CAVEAT = "a smoke test by a language model, not a substitute for people"
_AT_A_TIME = 4
_SIDES = ("chosen", "rejected")
_ASK = """You compare two replies of a customer-service assistant to the same conversation.

Conversation:
{prompt}

Reply A:
{a}

Reply B:
{b}

Which reply would you rather send? Judge correctness and policy first, then harmlessness, honesty, politeness and
brevity; length is no merit. Answer with one letter, A or B."""


def judge_agreement(
    url: str,
    judge: str,
    pairs: Sequence[Pair],
    scores: NDArray[np.floating[Any]],
    most: int = 50,
    seed: int = 7,
    api_key: str | None = None,
) -> dict[str, Any]:
    """How often model, judge and people agree on at most `most` pairs; `scores` [pairs, 2].

    Raises RewardModelError when the endpoint does not answer, BadInput without pairs that have a winner.
    """
    decided = [i for i, pair in enumerate(pairs) if pair.outcome == "win"]
    if not decided:
        raise BadInput("a judge needs pairs that have a winner")
    asked = sorted(Random(seed).sample(decided, min(most, len(decided))))
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(base_url=url, timeout=120, headers=headers) as client, ThreadPoolExecutor(_AT_A_TIME) as pool:
        verdicts = list(pool.map(lambda i: _verdict(client, judge, pairs[i]), asked))
    said = [(v, scores[i, 0] > scores[i, 1]) for v, i in zip(verdicts, asked, strict=True) if v in _SIDES]
    with_model = sum((verdict == "chosen") == bool(model) for verdict, model in said)
    with_people = sum(verdict == "chosen" for verdict, _ in said)
    return {
        "note": CAVEAT,
        "judge": judge,
        "seed": seed,
        "pairs": len(asked),
        "ties": verdicts.count("tie"),
        "unreadable": verdicts.count("unreadable"),
        "judge_with_model": round(with_model / len(said), 4) if said else None,
        "judge_with_model_ci": wilson(with_model, len(said)),
        "judge_with_people": round(with_people / len(said), 4) if said else None,
        "judge_with_people_ci": wilson(with_people, len(said)),
    }


def _verdict(client: httpx.Client, judge: str, pair: Pair) -> str:
    """`chosen` or `rejected`; `tie` where the judge has no steady opinion, `unreadable` where it names no side."""
    texts = (as_completion(pair.chosen).text(), as_completion(pair.rejected).text())
    answers = _ask(client, judge, pair, *texts), _ask(client, judge, pair, *reversed(texts))
    if None in answers:
        return "unreadable"
    steady: dict[tuple[str | None, str | None], str] = {("A", "B"): "chosen", ("B", "A"): "rejected"}
    return steady.get(answers, "tie")


def _ask(client: httpx.Client, judge: str, pair: Pair, a: str, b: str) -> str | None:
    prompt = "\n".join(f"{message.role}: {message.text()}" for message in pair.prompt)
    messages = [{"role": "user", "content": _ASK.format(prompt=prompt, a=a, b=b)}]
    body = {"model": judge, "messages": messages, "temperature": 0, "max_tokens": 5}
    try:
        answer = client.post("chat/completions", json=body)
        answer.raise_for_status()
        said = str(answer.json()["choices"][0]["message"]["content"])
    except (httpx.HTTPError, LookupError, TypeError, ValueError) as error:
        raise RewardModelError(f"the judge at {client.base_url} gave no verdict: {error}") from error
    found = re.search(r"\b([AB])\b", said)
    return found[1] if found else None
