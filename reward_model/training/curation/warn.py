"""Which of a check's figures ask for something to be done, and what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Shares of fewer comparisons than these say little.
_FEW_COMPARISONS = 10
_FEW_VOTES = 20


def warnings_of(result: dict[str, Any]) -> list[dict[str, str]]:
    """One warning each, `code` for programs and `message` for people, of a check's figures and their limits."""
    found = (
        *_schema(result),
        *_overlap(result),
        *_biases(result),
        *_mix(result),
        *_agreement(result),
        *_annotators(result),
    )
    return [{"code": code, "message": message} for code, message in found]


_Found = Iterator[tuple[str, str]]


def _schema(result: dict[str, Any]) -> _Found:
    if errors := len(result["schema_errors"]):
        yield "schema", f"{errors} errors of schema: the lines they are on are in none of the figures."
    if not result["pairs"]:
        yield "empty", "There are no pairs."


def _overlap(result: dict[str, Any]) -> _Found:
    twice, leaks = result["duplicates"], result["leakage"]
    if count := twice["copies"]:
        yield "copies", f"{count} rows repeat the prompt and both replies of another; they weigh double in training."
    if count := twice["contradictions"]:
        yield (
            "contradictions",
            f"{count} pairs stand there twice with different winners; `data build` drops them.",
        )
    if count := twice["near"]:
        yield "near_duplicates", f"{count} pairs are nearly the same as another."
    if count := twice["repeated_ids"]:
        yield "repeated_ids", f"{count} ids stand on more than one line; digests and manifests count on ids."
    if count := twice["identical_replies"]:
        yield "identical_replies", f"{count} pairs have twice the same reply: there is nothing to learn from them."
    truncation = result["truncation"]
    if truncation and (count := truncation["equal_after_truncation"]):
        yield (
            "equal_after_truncation",
            f"In {count} pairs both replies are the same tokens after truncation by the model's rule; training and "
            "evaluation leave them out.",
        )
    if count := twice["empty_winners"]:
        yield "empty_winners", f"In {count} pairs the chosen reply is empty."
    for kind, name in (("groups", "groups"), ("prompts", "prompts"), ("near_prompts", "nearly equal prompts")):
        if count := leaks[kind]:
            yield f"leakage_{kind}", f"{count} {name} stand in more than one split: held-out figures will flatter."


def _biases(result: dict[str, Any]) -> _Found:
    limits, position, length = result["limits"], result["position"], result["length"]
    for name, figures in (("All pairs", position), *position["by_source"].items()):
        if figures["pairs"] and figures["p_value"] < limits["significance"]:
            share = f"{figures['winner_first']:.0%} of {figures['pairs']}"
            yield (
                "position_bias",
                f"{name}: the winner was first in {share} pairs (p = {figures['p_value']:.2g}).",
            )
    limit = limits["max_longer_wins"]
    for name, figures in (("All pairs", length), *length["by_bucket"].items()):
        if not figures["pairs"]:
            continue
        low, high = figures["longer_wins_ci"]
        if low > limit or high < 1 - limit:
            share = f"{figures['longer_wins']:.0%} of {figures['pairs']}"
            yield "length_bias", f"{name}: the longer reply wins in {share} pairs; a model can learn that alone."


def _mix(result: dict[str, Any]) -> _Found:
    if unlabelled := result["mix"]["label"].get("unknown"):
        yield "unlabelled", f"{unlabelled} pairs have no label: nobody is known to have judged them."
    for name, bucket in result["mix"]["by_bucket"].items():
        if bucket["policy_only"]:
            yield (
                "policy_only",
                f"{name}: every reply comes from the policy; a model that never sees a human, teacher or authored "
                "reply cannot score one.",
            )
    for name, pairs in result["rare_buckets"].items():
        yield "rare_bucket", f"{name}: {pairs} pairs, fewer than {result['limits']['min_bucket']}."


def _agreement(result: dict[str, Any]) -> _Found:
    limit = result["limits"]["min_agreement"]
    for name, figures in result["agreement"].items():
        if figures["comparisons"] >= _FEW_COMPARISONS and figures["agreement"] < limit:
            yield (
                "low_agreement",
                f"{name}: annotators agree in {figures['agreement']:.0%} of {figures['comparisons']} comparisons, "
                f"below {limit:.0%}: mend the guideline before labelling more.",
            )


def _annotators(result: dict[str, Any]) -> _Found:
    limits, annotators = result["limits"], result["annotators"]
    for name, figures in annotators.items():
        agreed, drift = figures["with_majority"], figures["drift"]
        if agreed and agreed["of"] >= _FEW_VOTES and agreed["share"] < limits["min_agreement"]:
            yield "annotator", f"{name} agrees with the others in {agreed['share']:.0%} of {agreed['of']} pairs."
        # Divided by how many are tested, so that a crowd of steady annotators is not warned about.
        if drift and drift["p_value"] < limits["significance"] / len(annotators):
            yield (
                "drift",
                f"{name}: agreement went from {drift['first_half']:.0%} in the first half of the votes to "
                f"{drift['second_half']:.0%} in the second (p = {drift['p_value']:.2g}).",
            )
