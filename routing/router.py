"""The route of a conversation: operators' rules first, then the classifier's calibrated probability.

`Router.route` answers for any text whatever: empty, binary, a megabyte long. A text with nothing to read in it
is `default`. A conversation takes the route of its most high-stakes piece (`routing.conversation`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from routing.bundle import BUNDLED, Manifest, load_bundle
from routing.classifier import Classifier
from routing.conversation import Messages, pieces
from routing.rules import HIGH_STAKES, Route, RouterSettings, first_match


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Where a conversation goes.

    probability is P(billing or fraud), calibrated as the manifest says and whatever a rule decided;
    `rule` names the operator's rule that decided the route, or is None.
    """

    route: Route
    high_stakes: bool
    probability: float
    rule: str | None = None


class Router:
    """Rules, a classifier and thresholds; stateless and safe to share between threads."""

    def __init__(self, classifier: Classifier, manifest: Manifest, settings: RouterSettings) -> None:
        self.manifest = manifest
        self._classifier = classifier
        self._rules = settings.rules
        trained, wanted = manifest.thresholds, settings.thresholds
        self._thresholds = {
            "billing": trained.billing if wanted.billing is None else wanted.billing,
            "fraud": trained.fraud if wanted.fraud is None else wanted.fraud,
        }

    @classmethod
    def load(cls, path: Path | str | None = None, settings: RouterSettings | None = None) -> Self:
        """Load a router's folder: `path`, else the settings', else the bundled one.

        Raises BundleError when its files are not the ones its manifest lists.
        """
        settings = settings or RouterSettings()
        manifest, classifier = load_bundle(Path(path or settings.model or BUNDLED))
        return cls(classifier, manifest, settings)

    def route(self, conversation: str | Messages) -> RouteDecision:
        """The route of a text, or of messages ({role, content} mappings or objects). Never raises."""
        return self.route_many([conversation])[0]

    def route_many(self, conversations: Iterable[str | Messages]) -> list[RouteDecision]:
        """The same for many at once, in one batch."""
        texts = [pieces(conversation) for conversation in conversations]
        flat = [text for group in texts for text in group]
        probabilities = self._classifier.probabilities(flat)
        decisions, start = [], 0
        for group in texts:
            decisions.append(self._decide(group, probabilities[start : start + len(group)]))
            start += len(group)
        return decisions

    def _decide(self, texts: list[str], probabilities: np.ndarray) -> RouteDecision:
        """Decide from one conversation's pieces and their [n, 2] probabilities of billing and fraud."""
        if not texts:
            return RouteDecision("default", False, 0.0)
        stakes = probabilities.sum(axis=1)
        top = int(stakes.argmax())
        probability = float(stakes[top])
        rule = first_match(self._rules, texts)
        if rule is not None:
            return RouteDecision(rule.route, rule.route != "default", probability, rule.name)
        route = HIGH_STAKES[int(probabilities[top].argmax())]
        if probability < self._thresholds[route]:
            return RouteDecision("default", False, probability)
        return RouteDecision(route, True, probability)
