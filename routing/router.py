"""The route of a conversation: operators' rules first, then the classifier's calibrated probability.

`Router.route` answers for any text whatever: empty, binary, a megabyte long. A text with nothing to read in it
is `default`. A conversation takes the route of its most high-stakes piece (`routing.conversation`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from routing.bundle import BUNDLED, RouterManifest, load_bundle
from routing.classifier import Classifier
from routing.conversation import Messages, pieces
from routing.errors import BadRoutingInput
from routing.routes import DEFAULT, Route
from routing.rules import first_match
from routing.settings import RouterSettings


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Where a conversation goes.

    probability is P(any class but default), calibrated as the manifest says and whatever a rule decided;
    `rule` names the operator's rule that decided the route, or is None.
    """

    route: Route
    high_stakes: bool
    probability: float
    rule: str | None = None


class Router:
    """Rules, a classifier and thresholds; stateless and safe to share between threads."""

    def __init__(self, classifier: Classifier, manifest: RouterManifest, settings: RouterSettings) -> None:
        self.manifest = manifest
        self._classifier = classifier
        self._rules = settings.rules
        if unknown := settings.thresholds.keys() - manifest.thresholds.keys():
            raise BadRoutingInput(
                f"router.thresholds.{min(unknown)}: the classifier {manifest.id} has no such class; "
                f"it has {', '.join(manifest.classes[1:])}"
            )
        self._thresholds = {**manifest.thresholds, **settings.thresholds}

    @classmethod
    def load(cls, path: Path | str | None = None, settings: RouterSettings | None = None) -> Self:
        """Load a router's folder: `path`, else the settings', else the bundled one.

        Raises BundleError if its files are not the ones its manifest lists, BadRoutingInput if the settings do not
        fit it.
        """
        settings = settings or RouterSettings()
        manifest, classifier = load_bundle(Path(path or settings.model or BUNDLED))
        return cls(classifier, manifest, settings)

    @property
    def routes(self) -> frozenset[Route]:
        """Every route that a decision can name."""
        return frozenset((DEFAULT, *self.manifest.classes, *(rule.route for rule in self._rules)))

    def need_routes(self, configured: Container[Route]) -> None:
        """Raise BadRoutingInput if a rule or a class names a route that is not configured."""
        for rule in self._rules:
            if rule.route not in configured:
                raise BadRoutingInput(f"rule {rule.name!r}: no route {rule.route!r}; add [routes.{rule.route}]")
        for name in self.manifest.classes:
            if name not in configured:
                raise BadRoutingInput(
                    f"the classifier {self.manifest.id} has the class {name!r}, but there is no such route; "
                    f"add [routes.{name}]"
                )

    def route(self, conversation: str | Messages) -> RouteDecision:
        """The route of a text, or of messages ({role, content} mappings or objects). Never raises."""
        return self.route_many([conversation])[0]

    def route_many(self, conversations: Iterable[str | Messages]) -> list[RouteDecision]:
        """The same for many at once, in one batch."""
        texts = [pieces(conversation) for conversation in conversations]
        flat = [text for group in texts for text in group]
        probabilities = self._classifier.probabilities(flat) if flat else np.empty((0, len(self._thresholds)))
        decisions, start = [], 0
        for group in texts:
            decisions.append(self._decide(group, probabilities[start : start + len(group)]))
            start += len(group)
        return decisions

    def _decide(self, texts: list[str], probabilities: np.ndarray) -> RouteDecision:
        """Decide from one conversation's pieces and their [n, classes - 1] probabilities."""
        if not texts:
            return RouteDecision(DEFAULT, False, 0.0)
        stakes = probabilities.sum(axis=1)
        top = int(stakes.argmax())
        probability = float(stakes[top])
        rule = first_match(self._rules, texts)
        if rule is not None:
            return RouteDecision(rule.route, rule.route != DEFAULT, probability, rule.name)
        route = self.manifest.classes[1 + int(probabilities[top].argmax())]
        if probability < self._thresholds[route]:
            return RouteDecision(DEFAULT, False, probability)
        return RouteDecision(route, True, probability)
