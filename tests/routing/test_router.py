"""The bundled router on sentences of this file's own, rules and thresholds on it, and safe answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from routing.errors import BadRoutingInput
from routing.model.bundle import BUNDLED
from routing.model.classifier import Classifier, Logits, NgramModel, Stage, StakesCalibration
from routing.model.features import BUCKETS
from routing.model.manifest import read_manifest
from routing.router import RouteDecision, Router
from routing.settings import RouterSettings

CHARGED = "I was charged twice for my subscription. What should I do?"
BILLING = [
    "Hi, you've debited my account two times for the same invoice.",
    "I want my money back for the order I returned three weeks ago.",
    "um yeah my insurance payment went up and nobody told me why",
    "What is the fee for taking out cash abroad?",
    "I'd like to pay my water bill.",
]
FRAUD = [
    "There's a payment on my card that I never made.",
    "uh somebody stole my wallet and my bank cards were in it",
    "I think I gave my password to a scammer pretending to be my bank.",
    "Someone took out an insurance policy using my name.",
    "Please freeze my card right now.",
]
DEFAULT = [
    "What are your opening hours on Saturday?",
    "Write a haiku about the sea.",
    "My phone takes hours to charge, is the cable broken?",
    "How does a bill become a law?",
    "hi um how do I change my address please",
    "I need to file a claim, a tree fell on my roof.",
    "Set an alarm for seven tomorrow.",
]


@pytest.mark.parametrize("text", BILLING + FRAUD)
def test_high_stakes_are_seen(router: Router, text: str) -> None:
    decision = router.route(text)
    assert decision.high_stakes
    assert decision.route == ("billing" if text in BILLING else "fraud")
    assert decision.probability >= read_manifest(BUNDLED).thresholds["billing"]
    assert decision.rule is None


@pytest.mark.parametrize("text", DEFAULT)
def test_everything_else_is_default(router: Router, text: str) -> None:
    decision = router.route(text)
    assert (decision.route, decision.high_stakes) == ("default", False)
    assert decision.probability < 0.5


def test_a_conversation_keeps_the_stakes_of_its_recent_turns(router: Router) -> None:
    messages = [
        {"role": "user", "content": "I was charged twice for my subscription."},
        {"role": "assistant", "content": "When was that?"},
        {"role": "user", "content": "yesterday"},
    ]
    assert router.route(messages).route == "billing"


def test_what_the_assistant_says_does_not_count(router: Router) -> None:
    assert not router.route([{"role": "assistant", "content": BILLING[0]}]).high_stakes


ANSWERS = ["yes", "the second one", "ok, and then?", "in May", "both of them"]


def conversation(first: str, *turns: str) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": first}]
    for turn in turns:
        messages += [{"role": "assistant", "content": "Which one?"}, {"role": "user", "content": turn}]
    return messages


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 50])
def test_short_answers_keep_the_stakes(router: Router, count: int) -> None:
    assert router.route(conversation(CHARGED, *(ANSWERS * 10)[:count])).route == "billing"


def test_five_turns_on_another_topic_end_them(router: Router) -> None:
    assert router.route(conversation(CHARGED, *DEFAULT[1:5])).route == "billing"
    assert router.route(conversation(CHARGED, *DEFAULT[1:6])).route == "default"


def test_what_the_assistant_names_counts_while_answers_are_short(router: Router) -> None:
    named = conversation("hello", *ANSWERS)
    assert router.route(named).route == "default"
    named[-2] = {"role": "assistant", "content": "You were charged twice for your subscription. Shall I refund it?"}
    assert router.route(named).route == "billing"
    assert router.route([*named, {"role": "user", "content": DEFAULT[1]}]).route == "default"
    menu = {"role": "assistant", "content": "Hello! I can help you with bills, refunds, cards and fraud."}
    assert router.route([{"role": "user", "content": "hi"}, menu, {"role": "user", "content": "ok"}]).route == "default"


FILL = "The garden was quiet and the rain had stopped before noon. " * 50
SIGNATURE = "\n--\nJane Roe\nExample Ltd\n12 High Street\n" + "This message is meant for its addressee only. " * 14


@pytest.mark.parametrize("at", [0, 500, 700, 1475, 2250, 2950])
def test_a_question_anywhere_in_a_long_text_is_found(router: Router, at: int) -> None:
    cut = FILL.rfind(" ", 0, at) + 1 if at else 0
    assert router.route(f"{FILL[:cut]}{CHARGED} {FILL[cut:]}").route == "billing"


@pytest.mark.parametrize(
    "content",
    [
        "On Monday Tom wrote:\n> thanks for the notes, see you on Friday.\n" * 8 + CHARGED + SIGNATURE,
        f"> {CHARGED}\n" + "On Monday Tom wrote:\n> see you on Friday.\n" * 8 + SIGNATURE,
        "<p class='x'>The garden was quiet.</p>" * 40 + f"<div>{CHARGED}</div>" + "<p>It rained.</p>" * 20,
        "\n".join(["Monday: rain", "Tuesday: sun"] * 60 + [CHARGED] + ["Friday: fog"] * 60),
        "\n".join(f"{FILL[:1475]}{CHARGED} {FILL[1475:]}".split()),
        [{"type": "text", "text": FILL}, {"type": "text", "text": CHARGED}, {"type": "text", "text": FILL}],
        (FILL * 3) + CHARGED + (FILL * 3),
    ],
)
def test_a_question_in_a_paste_is_found(router: Router, content: Any) -> None:
    decision = router.route([{"role": "user", "content": content}])
    assert (decision.route, decision.truncated) == ("billing", False)


@pytest.mark.parametrize("text", [FILL, SIGNATURE, FILL * 6])
def test_long_texts_without_a_question_are_default(router: Router, text: str) -> None:
    assert router.route(text).route == "default"


def test_what_is_beyond_the_bound_is_told(router: Router) -> None:
    decision = router.route(FILL * 7 + CHARGED + FILL * 7)
    assert (decision.route, decision.truncated) == ("default", True)


@pytest.mark.parametrize(
    "text",
    [
        "I w\u0430s ch\u0430rg\u0435d tw\u0456ce",
        "I was ch4rged tw1ce",
        "I was c\u200bharged twi\u00adce",
        "Ｉ ｗａｓ ｃｈａｒｇｅｄ ｔｗｉｃｅ",
    ],
)
def test_disguised_questions_are_found(router: Router, text: str) -> None:
    assert router.route(text).route == "billing"


def test_quick_decides_as_route_does_or_leaves_it(router: Router) -> None:
    texts = BILLING + FRAUD + DEFAULT + [FILL, FILL[:1000]]
    quick = [router.quick(text) for text in texts]
    assert all(decision in (None, router.route(text)) for decision, text in zip(quick, texts, strict=True))
    assert sum(decision is not None for decision in quick) >= len(texts) // 3
    # Too long for an event loop, however clear.
    assert router.quick(FILL) is None


@pytest.mark.parametrize(
    "given",
    ["", " \x00\n", b"\xff\xfe\x00\x81", [], None, 7, [None], [{"role": "user", "content": None}], "💳🔥", "\ud800"],
)
def test_nothing_to_read_is_default(router: Router, given: Any) -> None:
    assert router.route(given).route == "default"


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "charged twice " * 80_000, "\u202e\u0301" * 500_000, "😀" * 300_000, "[SEP][PAD]" * 9]
)
def test_any_text_gets_a_probability(router: Router, text: str) -> None:
    assert 0.0 <= router.route(text).probability <= 1.0


def test_a_question_at_the_end_of_a_long_text_is_found(router: Router) -> None:
    assert router.route("The meeting began at nine. " * 2_000 + FRAUD[0]).high_stakes


def test_many_are_answered_as_one_by_one(router: Router) -> None:
    texts = BILLING + DEFAULT + FRAUD
    for decision, text in zip(router.route_many(texts), texts, strict=True):
        alone = router.route(text)
        assert decision.route == alone.route
        assert decision.probability == pytest.approx(alone.probability, rel=1e-9)


def test_the_routes_that_a_decision_can_name() -> None:
    router = fixed_router(rules=[{"name": "r", "route": "returns-eu_2", "keywords": ["parcel"]}])
    assert router.routes == {"default", "billing", "fraud", "returns-eu_2"}
    assert router.route("-9 -9").route == "default"


def test_a_rule_or_a_class_without_its_route_is_refused() -> None:
    router = fixed_router(rules=[{"name": "parcels", "route": "returns", "keywords": ["parcel"]}])
    router.need_routes({"default", "billing", "fraud", "returns"})
    with pytest.raises(BadRoutingInput, match=r"rule 'parcels': no route 'returns'; add \[routes.returns\]"):
        router.need_routes({"default", "billing", "fraud"})
    with pytest.raises(BadRoutingInput, match=r"winnow-router@2 has the class 'fraud'.*\[routes.fraud\]"):
        router.need_routes({"default", "billing", "returns"})


def test_a_threshold_of_no_class_is_refused() -> None:
    with pytest.raises(BadRoutingInput, match=r"router.thresholds.returns: .* has billing, fraud"):
        fixed_router(thresholds={"returns": 0.5})


class Fixed:
    """A model whose logits are the numbers that the text is made of."""

    def logits(self, texts: Sequence[str]) -> Logits:
        return np.array([[0.0, *map(float, text.split())] for text in texts])


def fixed_router(**settings: Any) -> Router:
    silent = NgramModel(*(np.zeros(shape, dtype=np.float32) for shape in ((3, BUCKETS), (3,), (BUCKETS,))))
    stage = Stage(silent, StakesCalibration((1.0, 0.0), 0.0))
    classifier = Classifier(stage, stage, Fixed())
    manifest = read_manifest(BUNDLED)
    return Router(classifier, manifest, RouterSettings.model_validate(settings))


def test_each_route_has_its_threshold() -> None:
    # Odds of high stakes e^1 + e^0 to 1: probability 3.718 / 4.718 = 0.788.
    router = fixed_router(thresholds={"billing": 0.7, "fraud": 0.8})
    decision = router.route("1 0")
    assert decision == RouteDecision("billing", True, decision.probability)
    assert decision.probability == pytest.approx(0.78806, abs=1e-5)
    assert router.route("0 1").route == "default"


def test_a_rule_decides_and_the_probability_stays_the_classifiers() -> None:
    rules = [
        {"name": "calm", "route": "default", "keywords": ["2"]},
        {"name": "watch", "route": "fraud", "pattern": "^-9"},
    ]
    router = fixed_router(rules=rules)
    calm = router.route("2 2")
    assert calm == RouteDecision("default", False, calm.probability, "calm")
    assert calm.probability == pytest.approx(0.93663, abs=1e-5)
    decision = router.route("-9 -9")
    assert (decision.route, decision.high_stakes, decision.rule) == ("fraud", True, "watch")
    assert decision.probability == pytest.approx(2 / (2 + np.exp(9)))
