"""The `winnow` command: a table of commands, each imported only when it runs.

A gateway image has no torch and still has `winnow gateway`; `winnow --help` imports nothing but this file.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class Entry(NamedTuple):
    """Where a command lives, what it does, and the extra that brings what it imports."""

    target: str
    summary: str
    extra: str | None = None


COMMANDS: dict[str, Entry] = {
    "serve": Entry("service.commands:serve_app", "Run policy, scorer and gateway on this machine, supervised."),
    "gateway": Entry("service.commands:gateway_app", "Run the OpenAI-compatible gateway."),
    "policy": Entry("service.commands:policy_app", "Prepare the policy model and run vLLM on it."),
    "scorer": Entry("reward_model.serving.cli:scorer_app", "Serve a reward model over HTTP.", "orm"),
    "store": Entry("service.store.cli:store_app", "Forget and export what the gateway remembers."),
    "audit": Entry("service.audits.cli:audit_app", "Have a random sample of answers judged blind, and report."),
    "key": Entry("service.keys.cli:key_app", "Make, list and revoke API keys."),
    "route": Entry("routing.cli:route_app", "Say which route each line of a JSONL file takes."),
    "score": Entry("reward_model.offline.cli:score_app", "Score the completions of a JSONL file.", "orm"),
    "evaluate": Entry("reward_model.offline.evaluate_cli:evaluate_app", "Measure a reward model on pairs.", "train"),
    "data": Entry("reward_model.training.data_cli:data_app", "Prepare preference data.", "train"),
    "train": Entry("reward_model.training.cli:train_app", "Train a reward model from a recipe.", "train"),
    "ablate": Entry("reward_model.training.cli:ablate_app", "Train variants of a recipe and compare them.", "train"),
    "redteam": Entry("reward_model.training.redteam.cli:redteam_app", "Try to game a reward model.", "train"),
    "publish": Entry(
        "reward_model.training.release.publish_cli:publish_app", "Put a checkpoint into the registry.", "train"
    ),
    "promote": Entry(
        "reward_model.training.release.publish_cli:promote_app", "Make a challenger champion, if it may.", "train"
    ),
    "rollback": Entry("reward_model.training.release.registry_cli:rollback_app", "Move an alias back to where it was."),
    "models": Entry("reward_model.training.release.registry_cli:models_app", "List, push and pull checkpoints."),
    "calibrate": Entry(
        "reward_model.training.calibration.cli:calibrate_app", "Fit a checkpoint's calibrator.", "train"
    ),
    "route-train": Entry("routing.cli:route_train_app", "Train the router.", "train"),
    "loadtest": Entry("loadtest.cli:loadtest_app", "Load a gateway and check its objectives."),
    "bench": Entry("loadtest.bench.cli:bench_app", "Measure this machine, Winnow and its peers.", "orm"),
}


class LazyGroup(TyperGroup):
    """A command group whose members are imported on use; the help page needs only the table."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        return TyperCommand(cmd_name, help=entry.summary) if entry else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest


def load(name: str) -> Any:
    """Import a command; exits with 2 and says which extra to install when a library is missing."""
    entry = COMMANDS[name]
    module, attribute = entry.target.split(":")
    try:
        command = get_command(getattr(import_module(module), attribute))
    except ModuleNotFoundError as error:
        if entry.extra is None or (error.name or "").split(".")[0] in {"service", "routing", "reward_model"}:
            raise
        sys.exit(
            f"winnow {name}: the library `{error.name}` is not installed here. "
            f"Install it with: pip install 'winnow-rerank[{entry.extra}]'"
        )
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    help="Winnow: best-of-N over vLLM, scored by a reward model, decided by a calibrated probability.",
)


@app.callback()
def _root() -> None:
    """Keep Typer in group mode."""


def main() -> None:
    """Entry point of the `winnow` script."""
    app(prog_name="winnow")
