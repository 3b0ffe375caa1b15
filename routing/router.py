"""The route of a conversation: operators' rules first, then the classifier's calibrated probability.

`Router.route` answers for any text whatever: empty, binary, a megabyte long. A text with nothing to read in it
is `default`. A conversation takes the route of the most high-stakes text that is read of it (`text.conversation`).

`Router.quick` is the part that is fast enough for an event loop: the n-grams decide most conversations in a
fraction of a millisecond. What it leaves open takes an encoder, some milliseconds on a thread (`batcher`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from routing.errors import BadRoutingInput
from routing.model.bundle import BUNDLED, load_bundle
from routing.model.classifier import Classifier, Estimate, Scan
from routing.model.manifest import RouterManifest
from routing.routes import DEFAULT, Route
from routing.rules import Rule, first_match
from routing.settings import RouterSettings
from routing.text.background import background_task
from routing.text.conversation import Messages, Reading, read

BACKGROUND = "background-task"

# Characters that the n-grams read within about a millisecond.
QUICK = 2_000

# What the assistant says names the topic of short answers, but it also offers help with bills that nobody asked for.
ASSISTANT_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Where a conversation goes.

    probability is P(any class but default), calibrated as the manifest says and whatever a rule decided;
    `rule` names the operator's rule that decided the route (or is `background-task`), or is None; `truncated`
    says that a part of the conversation was not read because it is too long (`routing.text.conversation.BOUND`).
    """

    route: Route
    high_stakes: bool
    probability: float
    rule: str | None = None
    truncated: bool = False


@dataclass(slots=True)
class _Scanned:
    """A conversation after the n-grams: its texts' scans, of which the first `users` are the user's."""

    scans: list[Scan]
    users: int
    rule: Rule | None
    background: bool
    truncated: bool


class Router:
    """Rules, a classifier and thresholds; stateless and safe to share between threads."""

    def __init__(self, classifier: Classifier, manifest: RouterManifest, settings: RouterSettings) -> None:
        self.manifest = manifest
        self._classifier = classifier
        self._settings = settings
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
        return frozenset((DEFAULT, *self.manifest.classes, *(rule.route for rule in self._settings.rules)))

    def need_routes(self, configured: Container[Route]) -> None:
        """Raise BadRoutingInput if a rule or a class names a route that is not configured."""
        for rule in self._settings.rules:
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
        scanned = self._scan(read(conversation))
        return self._decide(scanned, self._classifier.finish(scanned.scans))

    def route_many(self, conversations: Iterable[str | Messages]) -> list[RouteDecision]:
        """The same for many."""
        return [self.route(conversation) for conversation in conversations]

    def quick(self, conversation: str | Messages) -> RouteDecision | None:
        """The decision if the n-grams suffice for it, which takes no more than `QUICK` characters; else None."""
        reading = read(conversation)
        if reading.characters > QUICK:
            return None
        scanned = self._scan(reading)
        if any(scan.unclear for scan in scanned.scans):
            return None
        return self._decide(scanned, [scan.best for scan in scanned.scans])

    def _scan(self, reading: Reading) -> _Scanned:
        users, assistants = reading.user, reading.assistant
        background = False
        if self._settings.background_tasks and users and (task := background_task(users[0], reading.system)):
            # Quoted words do not count, what stands beside them does.
            users, assistants, background = [task.frame], [], True
        scans = [self._classifier.scan(text) for text in (*users, *assistants)]
        rule = first_match(self._settings.rules, users)
        return _Scanned(scans, len(users), rule, background, reading.truncated)

    def _decide(self, scanned: _Scanned, estimates: list[Estimate | None]) -> RouteDecision:
        users = [estimate for estimate in estimates[: scanned.users] if estimate is not None]
        assistants = [
            estimate
            for estimate in estimates[scanned.users :]
            if estimate is not None and estimate.probability >= ASSISTANT_THRESHOLD
        ]
        top = max(users + assistants, key=lambda estimate: estimate.score, default=None)
        probability = 0.0 if top is None else top.probability
        route = DEFAULT
        if top is not None:
            name = self.manifest.classes[1 + int(top.shares.argmax())]
            route = name if probability >= self._thresholds[name] else DEFAULT
        rule = BACKGROUND if scanned.background and route == DEFAULT else None
        if scanned.rule is not None:
            route, rule = scanned.rule.route, scanned.rule.name
        return RouteDecision(route, route != DEFAULT, probability, rule, scanned.truncated)
