"""What a router does on texts that nothing was chosen on: short and long ones, disguised ones, whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from routing.router import RouteDecision, Router
from routing.text.conversation import BOUND
from routing.train.data import Corpus, Example
from routing.train.disguise import DISGUISES
from routing.train.evaluate import calibration_error, labels, latency, measure, rate
from routing.train.long_texts import composed, documents, with_question

LATENCY_TEXTS = 500
_QUESTIONS = 150
ANSWERS = ("yes", "the second one", "ok, and then?", "in May", "both of them")
OTHER_TOPIC = (
    "Please write a short poem about the sea for my daughter.",
    "What should I cook tonight with rice and two eggs?",
    "Explain how a rainbow forms in a few sentences.",
    "Translate good morning, my friends into Italian for me.",
    "Recommend three novels about mountains for the holidays.",
    "How do I get wine stains out of a cotton shirt?",
)


def figures(router: Router, corpus: Corpus) -> dict[str, Any]:
    """All measures of a router, as its manifest holds them."""
    test = corpus.on("test")
    threshold = max(router.manifest.thresholds.values())
    decisions = [router.route(example.text) for example in test]
    probabilities = np.array([decision.probability for decision in decisions])
    figures: dict[str, Any] = {"threshold": threshold, "test": measure(probabilities, test, threshold)}
    if unseen := corpus.on("unseen"):
        figures["unseen"] = measure(
            np.array([router.route(each.text).probability for each in unseen]), unseen, threshold
        )
    right = [
        decision.route == router.manifest.classes[example.label]
        for decision, example in zip(decisions, test, strict=True)
        if example.label > 0 and decision.high_stakes
    ]
    figures["told_apart"] = rate(np.array(right, dtype=bool))
    figures["calibration_on_test"] = calibration_error(probabilities, test)
    if ambiguous := corpus.on("ambiguous"):
        figures["ambiguous_sent_to_high_stakes"] = _high([router.route(example.text) for example in ambiguous])
    quick = np.array([router.quick(example.text) is not None for example in test])
    figures["decided_by_ngrams"] = {
        "default": rate(quick[labels(test) == 0]),
        "high_stakes": rate(quick[labels(test) > 0]),
    }
    questions = _questions(test)
    figures["long_texts"] = long_texts(router, corpus, questions)
    figures["conversations"] = conversations(router, questions)
    figures["disguised"] = disguised(router, questions)
    figures["latency"] = latency(
        router.route, [example.text for example in test[:: max(1, len(test) // LATENCY_TEXTS)]]
    )
    return figures


def long_texts(router: Router, corpus: Corpus, questions: Sequence[Example]) -> dict[str, Any]:
    """False positives on prose, and recall of questions within it, by length in characters."""
    rng = Random(2)
    prose = corpus.prose_on("test")
    if not prose or not questions:
        return {}
    figures: dict[str, Any] = {
        "prose": _high([router.route(document.text) for document in documents(prose)]),
    }
    for longest in (1_000, 3_000, BOUND):
        made = [each for _ in range(4) for each in composed(prose, longest, rng)]
        made = [each for each in made if len(each.text) > longest // 3][: len(questions)]
        asked = [with_question(document, question, rng) for document, question in zip(made, questions, strict=False)]
        figures[f"{longest // 3} to {longest}"] = {
            "false_positive_rate": _high([router.route(each.text) for each in made]),
            "recall": _high([router.route(each.text[:BOUND]) for each in asked]),
        }
    return figures


def conversations(router: Router, questions: Sequence[Example]) -> dict[str, Any]:
    """How a question's stakes last: recall after short answers, and after turns on another topic."""
    after_answers = {
        str(count): _high([router.route(conversation(question.text, ANSWERS * 4, count)) for question in questions])
        for count in (0, 1, 3, 5, 20)
    }
    after_topics = {
        str(count): _high([router.route(conversation(question.text, OTHER_TOPIC, count)) for question in questions])
        for count in (1, 3, 4, 5)
    }
    return {"after_short_answers": after_answers, "after_other_topics": after_topics}


def conversation(question: str, turns: Sequence[str], count: int) -> list[dict[str, str]]:
    """The question and then so many of the turns, with a reply between."""
    messages = [{"role": "user", "content": question}]
    for turn in turns[:count]:
        messages += [{"role": "assistant", "content": "Which one?"}, {"role": "user", "content": turn}]
    return messages


def disguised(router: Router, questions: Sequence[Example]) -> dict[str, Any]:
    """Recall of each spelling that hides words."""
    return {
        name: _high(
            [router.route(disguise(question.text, Random(number))) for number, question in enumerate(questions)]
        )
        for name, disguise in DISGUISES.items()
    }


def _questions(examples: Sequence[Example]) -> list[Example]:
    stakes = [example for example in examples if example.label > 0]
    return Random(0).sample(stakes, min(_QUESTIONS, len(stakes)))


def _high(decisions: Sequence[RouteDecision]) -> dict[str, Any] | None:
    return rate(np.array([decision.high_stakes for decision in decisions], dtype=bool))
