"""Each module's tests are findable by its name: `tests/service/request/test_plan.py` for `service/request/plan.py`.

A module without a file of its own is listed here with the one that tests it, or with the reason why none does.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "routing")
NOT_MIRRORED = {"__init__.py", "__main__.py"}

# Tested through what uses it, because there its behaviour can be seen.
TESTED_IN = {
    "routing/config.py": "tests/routing/test_cli.py",
    "routing/model/manifest.py": "tests/routing/model/test_bundle.py",
    "service/api/http/lists.py": "tests/service/api/test_scope.py",
    "service/api/operators/users.py": "tests/service/api/test_scope.py",
    "service/store/actions.py": "tests/service/reviews/test_queue.py",
    "service/store/claims.py": "tests/service/reviews/test_queue.py",
    "service/store/pages.py": "tests/service/api/test_scope.py",
    "service/admission/permit.py": "tests/service/admission/test_admission.py",
    "service/api/operators/administration.py": "tests/service/store/test_lookup.py",
    "service/api/answers.py": "tests/service/api/test_openapi.py",
    "service/api/operators/audits.py": "tests/service/audits/test_judging.py",
    "service/api/http/direct.py": "tests/service/api/test_chat.py",
    "service/api/http/draining.py": "tests/service/processes/test_gateway.py",
    "service/api/feedback.py": "tests/service/reviews/test_feedback.py",
    "service/api/models.py": "tests/service/test_observability.py",
    "service/api/rerank.py": "tests/service/store/test_lookup.py",
    "service/api/responses/events.py": "tests/service/api/responses/test_route.py",
    "service/api/responses/items.py": "tests/service/api/responses/test_route.py",
    "service/api/responses/request.py": "tests/service/api/responses/test_route.py",
    "service/api/responses/response.py": "tests/service/api/responses/test_route.py",
    "service/api/operators/reviews.py": "tests/service/reviews/test_queue.py",
    "service/api/http/state.py": "tests/service/api/test_chat.py",
    "service/telemetry/instruments.py": "tests/service/telemetry/test_metrics.py",
    "service/app.py": "tests/service/api/test_chat.py",
    "service/audits/drawing.py": "tests/service/audits/test_judging.py",
    "service/audits/greedy.py": "tests/service/audits/test_cli.py",
    "service/audits/report.py": "tests/service/audits/test_agreement.py",
    "service/audits/watch.py": "tests/service/audits/test_judging.py",
    "service/assembly.py": "tests/service/api/test_chat.py",
    "service/commands.py": "tests/service/test_cli.py",
    "service/processes/child.py": "tests/service/processes/test_supervisor.py",
    "service/processes/progress.py": "tests/service/processes/test_serve.py",
    "service/processes/warden.py": "tests/service/processes/test_supervisor.py",
    "service/request/sampling/calls.py": "tests/service/telemetry/test_otel.py",
    "service/request/candidate.py": "tests/service/request/sampling/test_sampling.py",
    "service/request/outcome/flags.py": "tests/service/reviews/test_escalation.py",
    "service/request/sampling/marks.py": "tests/service/request/sampling/test_sampling.py",
    "service/request/pipeline.py": "tests/service/api/test_chat.py",
    "service/request/pool.py": "tests/service/request/outcome/test_outcome.py",
    "service/request/records.py": "tests/service/store/test_history.py",
    "service/request/respond.py": "tests/service/api/test_chat.py",
    "service/request/schemas/fields.py": "tests/service/request/schemas/test_chat.py",
    "service/request/schemas/problems.py": "tests/service/request/schemas/test_chat.py",
    "service/request/schemas/rerank.py": "tests/service/request/schemas/test_chat.py",
    "service/request/schemas/tools.py": "tests/service/request/schemas/test_chat.py",
    "service/request/sampling/tasks.py": "tests/service/request/sampling/test_sampling.py",
    "service/store/cli.py": "tests/service/store/privacy/test_retention.py",
    "service/store/database.py": "tests/service/store/test_history.py",
    "service/store/export.py": "tests/service/store/privacy/test_retention.py",
    "service/store/outbox.py": "tests/service/reviews/test_webhook.py",
    "service/store/addresses/postgres.py": "tests/service/store/addresses/test_address.py",
    "service/telemetry/summary.py": "tests/service/api/http/test_request_scope.py",
    "service/terminal.py": "tests/service/test_cli.py",
}
# Declarations alone.
UNTESTED = {
    "routing/errors.py": "classes of errors",
    "routing/routes.py": "a type",
    "routing/settings.py": "a settings class, tested with the gateway's",
    "service/errors.py": "classes of errors",
    "service/request/work.py": "a dataclass",
    "service/store/tables.py": "table definitions",
}


def _modules() -> list[str]:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    relative = (path.relative_to(ROOT) for path in paths if path.name not in NOT_MIRRORED)
    return sorted(str(path) for path in relative if "migrations" not in path.parts)


def _mirror(module: str) -> str:
    path = Path(module)
    return str(Path("tests") / path.parent / f"test_{path.name}")


def _is_mirrored(module: str, modules: list[str]) -> bool:
    """Whether its test stands where it should, is that of its whole folder, or has a name that no other module of the
    package shares."""
    folder = Path(module).parent
    whole = ROOT / "tests" / folder.parent / f"test_{folder.name}.py"
    if (ROOT / _mirror(module)).is_file() or whole.is_file():
        return True
    package, name = Path(module).parts[0], Path(module).name
    namesakes = [other for other in modules if Path(other).name == name and Path(other).parts[0] == package]
    return len(namesakes) == 1 and any((ROOT / "tests" / package).rglob(f"test_{name}"))


def test_each_module_has_its_tests() -> None:
    modules, listed = _modules(), TESTED_IN.keys() | UNTESTED.keys()
    missing = [module for module in modules if module not in listed and not _is_mirrored(module, modules)]
    assert not missing, f"write {[_mirror(module) for module in missing]}, or list the modules in {Path(__file__).name}"


def test_no_module_is_listed_that_needs_no_listing() -> None:
    modules = _modules()
    stale = [m for m in (*TESTED_IN, *UNTESTED) if m not in modules or _is_mirrored(m, modules)]
    assert not stale, f"take {stale} off the lists"


def test_what_is_named_exists() -> None:
    assert [test for test in TESTED_IN.values() if not (ROOT / test).is_file()] == []
