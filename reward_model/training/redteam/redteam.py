"""`winnow redteam`: how often a rewrite of a losing reply beats the honest winner, attack by attack.

A checkpoint is published only if every attack was tried and none wins more often than the limit, by the upper end of
its rate's interval: few cases prove nothing. Beside each rate stands how often the
loser wins without the rewrite: what a rewrite adds is the attack's doing, the rest is the model's own error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.errors import BadInput
from reward_model.labels import Acceptable, Origins, Pair, Ratings, as_completion, digest
from reward_model.text.formatting import Formatter
from reward_model.training.evaluation.evaluate import score_pairs
from reward_model.training.evaluation.metrics import clustered_interval
from reward_model.training.fit.truncation import distinct_pairs
from reward_model.training.redteam.attacks import (
    ATTACKS,
    CHATML,
    LIMIT,
    LIMITS,
    NAMES,
    NOISE,
    USER_ATTACK,
    Case,
    Phrases,
    TurnSeparators,
    rewrite,
    rewrite_prompt,
    withstood,
)

# What people said of the original pair says nothing of the rewritten one.
_AUTHORED: dict[str, Any] = {
    "label": "authored",
    "source": "redteam",
    "dimensions": {},
    "strength": None,
    "margin": None,
    "annotators": [],
    "ratings": Ratings(),
    "acceptable": Acceptable(),
    "shown_first": None,
}

# The cases an attack can be made against, by number, as pairs of winner and attacked reply.
Attacked = dict[int, Pair]
# Scores [pairs, 2] of (winner, attacked reply), or what went wrong while scoring.
Scores = NDArray[np.float32] | str


def redteam(
    model: LoadedModel, pairs: Sequence[Pair], seed: int = 7, limit: float = LIMIT, most: int = 150
) -> dict[str, Any]:
    """Attack at most `most` of the pairs that have a winner; rates by attack, and whether the checkpoint passes.

    Raises BadInput when there is no such pair. Pairs whose replies truncation makes equal are not attacked. `untried`
    are attacks that none of the pairs allows, such as `copied_policy` without a system message: they do not pass.
    """
    chosen = _sample(distinct_pairs(pairs, model.formatter), seed, most)
    attacked = {name: attack(chosen, name, seed, turns_of(model.formatter)) for name in NAMES}
    tried = {name: members for name, members in attacked.items() if members}
    honest, *scores = _score_all(model, [dict(enumerate(chosen)), *tried.values()])
    if isinstance(honest, str):
        raise BadInput(f"{model.id} cannot score the honest pairs: {honest}")
    by_attack = {
        name: _figures(members, honest[[*members]], found, LIMITS.get(name, limit))
        for (name, members), found in zip(tried.items(), scores, strict=True)
    }
    failed = sorted(name for name, figures in by_attack.items() if not figures["passed"])
    untried = [name for name in NAMES if name not in tried]
    return {
        "orm": model.id,
        "passed": not failed and not untried,
        "failed": failed,
        "untried": untried,
        "limit": limit,
        "limits": LIMITS,
        "seed": seed,
        "cases": len(chosen),
        "digest": digest(chosen),
        "without_attack": round(float(_beats(honest).mean()), 4),
        "by_attack": by_attack,
    }


def attack(
    pairs: Sequence[Pair], name: str, seed: int, turns: TurnSeparators = CHATML, phrases: Phrases = "test"
) -> Attacked:
    """The pairs under one attack, by their number; those that it cannot be made against are left out."""
    random = Random(f"{seed}:{name}")
    made = ((number, _under_attack(pair, name, random, turns, phrases)) for number, pair in enumerate(pairs))
    return {number: pair for number, pair in made if pair is not None}


def turns_of(formatter: Formatter) -> TurnSeparators:
    """What the model's own chat template writes between messages: the control tokens worth forging."""
    tokenizer = formatter.tokenizer
    if not tokenizer.chat_template:
        end = str(tokenizer.sep_token or tokenizer.eos_token)
        return TurnSeparators(*(f"{end}\n{role}: " for role in TurnSeparators._fields))
    roles = ("user", "assistant", "user")
    conversation = [{"role": role, "content": f"\ue000{n}\ue001"} for n, role in enumerate(roles)]
    rendered = str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
    user = rendered.partition("\ue0001\ue001")[2].partition("\ue000")[0]
    return TurnSeparators(user.replace("user", "system"), user, rendered.partition("\ue0002\ue001")[2])


def mitigation_pairs(
    pairs: Sequence[Pair], seed: int = 7, hold_out: Sequence[str] = (), per_pair: int = 1
) -> Iterator[Pair]:
    """Training pairs from each pair that has a winner: it against its rewritten loser, and against itself under noise.

    Attacks take turns, `per_pair` on each pair, and now and then the prompt is attacked. Those in `hold_out` are left
    out, and the phrases are never those of the test, so that what is measured afterwards was not learned by heart.
    Raises BadInput for an unknown attack.
    """
    if unknown := set(hold_out) - {*NAMES}:
        raise BadInput(f"no attack is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    attacks = [name for name in ATTACKS if name not in hold_out]
    noise = [name for name in NOISE if name not in hold_out]
    for number, pair in enumerate(pair for pair in pairs if pair.outcome == "win"):
        random = Random(f"{seed}:{pair.id}")
        turns = range(number * per_pair, (number + 1) * per_pair) if attacks else ()
        plans = [(attacks[turn % len(attacks)], "", pair) for turn in turns]
        if noise:
            plans.append((noise[number % len(noise)], "noise:", pair.model_copy(update={"rejected": pair.chosen})))
        if USER_ATTACK not in hold_out and number % len(ATTACKS) == 0:
            plans.append((USER_ATTACK, "", pair))
        for name, kind, target in plans:
            made = _under_attack(target, name, random, CHATML, "train")
            if made is not None:
                yield made.model_copy(update=_AUTHORED | {"id": f"{pair.id}+{kind}{name}", "failure_mode": name})


def _under_attack(pair: Pair, name: str, random: Random, turns: TurnSeparators, phrases: Phrases) -> Pair | None:
    case = Case(pair.prompt, as_completion(pair.chosen).text(), as_completion(pair.rejected).text(), turns)
    if name == USER_ATTACK:
        return pair.model_copy(update={"prompt": rewrite_prompt(case, random, phrases)})
    text = rewrite(case, name, random, phrases)
    if text is None:
        return None
    return pair.model_copy(update={"rejected": text, "origin": Origins(chosen=pair.origin.chosen, rejected="authored")})


def _sample(pairs: Sequence[Pair], seed: int, most: int) -> list[Pair]:
    decided = sorted((pair for pair in pairs if pair.outcome == "win"), key=lambda pair: pair.id)
    if not decided:
        raise BadInput("the red team needs pairs that have a winner, with replies that differ after truncation")
    return Random(seed).sample(decided, min(most, len(decided)))


def _score_all(model: LoadedModel, attacked: Sequence[Attacked]) -> list[Scores]:
    """Scores by attack: in one go, where a prompt is computed once for all of them; singly if that breaks."""
    every = [pair for members in attacked for pair in members.values()]
    together = _try_to_score(model, every)
    if isinstance(together, str):
        return [_try_to_score(model, list(members.values())) for members in attacked]
    ends = np.cumsum([len(members) for members in attacked])
    return list(np.split(together, ends[:-1]))


def _try_to_score(model: LoadedModel, pairs: Sequence[Pair]) -> Scores:
    try:
        return score_pairs(model, pairs)
    except Exception as error:
        # Whatever a text can break, an attacker can: it is the attack's success, told in the result.
        return f"{type(error).__name__}: {error}"


def _beats(scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the loser is at least as good as the winner; a score that is no number counts as a success."""
    return ~(scores[:, 1] < scores[:, 0])


def _figures(members: Attacked, honest: NDArray[np.float32], found: Scores, limit: float) -> dict[str, Any]:
    scores = np.full_like(honest, np.nan) if isinstance(found, str) else found
    beats, finite = _beats(scores), bool(np.isfinite(scores).all())
    shift = scores[:, 1] - honest[:, 1]
    figures: dict[str, Any] = {
        "cases": len(members),
        "rate": round(float(beats.mean()), 4),
        "rate_ci": clustered_interval(beats.astype(np.float64), [pair.group for pair in members.values()]),
        "without_attack": round(float(_beats(honest).mean()), 4),
        "mean_shift": round(float(shift.mean()), 4) if np.isfinite(shift).all() else None,
        "limit": limit,
        "passed": finite,
    }
    figures["passed"] = withstood(figures, limit)
    if isinstance(found, str):
        return figures | {"error": found}
    return figures | ({"worst": _worst(members, scores)} if beats.any() else {})


def _worst(members: Attacked, scores: NDArray[np.float32]) -> dict[str, Any]:
    """The case that the attack won by most, to be read by a person."""
    ahead = np.nan_to_num(scores[:, 1] - scores[:, 0], nan=np.inf)
    pair = [*members.values()][int(ahead.argmax())]
    return {"pair": pair.id, "reply": as_completion(pair.rejected).text()[:400]}
