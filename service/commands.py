"""`winnow gateway`, `policy` and `serve`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from service.terminal import ConfigOption, clear_errors

if TYPE_CHECKING:
    from service.processes.stack import ServeOptions

gateway_app = typer.Typer(add_completion=False)
policy_app = typer.Typer(add_completion=False)
serve_app = typer.Typer(add_completion=False)


@gateway_app.command()
def gateway(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    policy_url: Annotated[str | None, typer.Option(help="OpenAI-compatible policy, such as vLLM.")] = None,
    scorer_url: Annotated[str | None, typer.Option(help="Winnow scorer.")] = None,
) -> None:
    """Run the OpenAI-compatible gateway; SIGTERM or Ctrl-C drains and stops it."""
    from service.processes import gateway as gateway_process
    from service.settings import load_settings
    from service.store.database import check_database

    with clear_errors():
        settings = load_settings(config, host=host, port=port, policy_url=policy_url, scorer_url=scorer_url)
        # Here what is wrong is one line; once the server starts the app it would be a traceback.
        asyncio.run(check_database(settings.store.address()))
        raise typer.Exit(gateway_process.run(settings))


DraftOption = Annotated[
    str | None, typer.Option(help="Speculative decoding: `ngram`, or a smaller model that guesses tokens ahead.")
]


@policy_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def policy(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="`bundled`, a folder, or a hub id.")] = "bundled",
    served_name: Annotated[str | None, typer.Option(help="Name it is asked for by.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8001,
    draft: DraftOption = None,
    draft_tokens: Annotated[int, typer.Option(min=1, help="Tokens that are guessed ahead.")] = 4,
) -> None:
    """Prepare the policy model and run vLLM's OpenAI server on it; further options go to vLLM."""
    from service.processes import policy as policy_process
    from service.processes.policy_model import served_name as true_name

    with clear_errors():
        name = served_name or true_name(model)
        policy_process.run(
            policy_process.PolicyLaunch(model, name, host, port, draft, draft_tokens, tuple(context.args))
        )


ScorerPortOption = Annotated[
    int, typer.Option(envvar="WINNOW_SCORER_PORT", help="Port of the scorer that is started here.")
]
ModelOption = Annotated[
    str | None, typer.Option(help="Policy model to start: `bundled` (the default), a folder, or a hub id.")
]
PolicyModelOption = Annotated[
    str | None, typer.Option(help="Name to ask the policy for; if it serves one model, that one's.")
]
ProfileOption = Annotated[
    str | None,
    typer.Option(help="`demo` sends every winner, and is the default here; `standard` holds what is not accepted."),
]


@serve_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address of the gateway; 127.0.0.1 if nothing names one.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the gateway; 8000 if nothing names one.")] = None,
    policy_port: Annotated[int, typer.Option(help="Port of the policy that is started here.")] = 8001,
    scorer_port: ScorerPortOption = 8002,
    model: ModelOption = None,
    draft: DraftOption = None,
    orm: Annotated[str | None, typer.Option(help="Reward model to start: a name, a folder, or a hub id.")] = None,
    policy_url: Annotated[str | None, typer.Option(help="Use this policy instead of starting one.")] = None,
    policy_model: PolicyModelOption = None,
    scorer_url: Annotated[str | None, typer.Option(help="Use this scorer instead of starting one.")] = None,
    profile: ProfileOption = None,
    state: Annotated[Path | None, typer.Option(help="Folder of keys, logs and the store.")] = None,
) -> None:
    """Run policy, scorer and gateway on this machine, supervised; further options go to vLLM.

    Settings hold as for the gateway: the command line, then WINNOW_* variables, then the file. Ctrl-C finishes the
    requests in flight and stops everything; a second one stops at once.
    """
    from service.processes.stack import ServeOptions

    options = ServeOptions(
        config=config,
        host=host,
        port=port,
        policy_port=policy_port,
        scorer_port=scorer_port,
        model=model,
        draft=draft,
        orm=orm,
        policy_url=policy_url,
        policy_model=policy_model,
        scorer_url=scorer_url,
        profile=profile,
        state=state,
        policy_options=tuple(context.args),
    )
    _supervise(options)


def _supervise(options: ServeOptions) -> NoReturn:
    """Run the stack until it stops, and exit as it did."""
    from service.processes import serve as serving

    with clear_errors():
        raise typer.Exit(asyncio.run(serving.run(options)))
