"""`winnow gateway`, `policy`, `serve` and `key`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from service.terminal import ConfigOption, clear_errors

gateway_app = typer.Typer(add_completion=False)
policy_app = typer.Typer(add_completion=False)
serve_app = typer.Typer(add_completion=False)
key_app = typer.Typer(add_completion=False)


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

    with clear_errors():
        settings = load_settings(config, host=host, port=port, policy_url=policy_url, scorer_url=scorer_url)
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

    with clear_errors():
        name = served_name or (policy_process.BUNDLED_MODEL if model == "bundled" else model)
        policy_process.run(
            policy_process.PolicyLaunch(model, name, host, port, draft, draft_tokens, tuple(context.args))
        )


@serve_app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str, typer.Option(help="Address of the gateway.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the gateway.")] = 8000,
    policy_port: Annotated[int, typer.Option(help="Port of the policy that is started here.")] = 8001,
    scorer_port: Annotated[int, typer.Option(help="Port of the scorer that is started here.")] = 8002,
    model: Annotated[str, typer.Option(help="Policy model: `bundled`, a folder, or a hub id.")] = "bundled",
    draft: DraftOption = None,
    orm: Annotated[str, typer.Option(help="Reward model: a name, a folder, or a hub id.")] = "winnow-orm",
    policy_url: Annotated[str | None, typer.Option(help="Use this policy instead of starting one.")] = None,
    scorer_url: Annotated[str | None, typer.Option(help="Use this scorer instead of starting one.")] = None,
    profile: Annotated[
        str, typer.Option(help="`demo` sends every winner; `standard` holds what is not accepted.")
    ] = "demo",
    state: Annotated[Path | None, typer.Option(help="Folder of keys and logs.")] = None,
) -> None:
    """Run policy, scorer and gateway on this machine, supervised; Ctrl-C drains and stops them."""
    from service.processes import serve as serving
    from service.settings import state_folder

    plan = serving.ServeOptions(
        config=config,
        host=host,
        port=port,
        policy_port=policy_port,
        scorer_port=scorer_port,
        model=model,
        draft=draft,
        orm=orm,
        policy_url=policy_url,
        scorer_url=scorer_url,
        profile=profile,
        state=state or state_folder(),
    )
    with clear_errors():
        asyncio.run(serving.run(plan))


@key_app.command()
def key(
    tenant: Annotated[str, typer.Argument(help="Who the key is for; rate limits and lookups are by tenant.")],
    keys: Annotated[Path, typer.Option(help="The gateway's keys file; made when missing.")],
    role: Annotated[str, typer.Option(help="client, operator or admin.")] = "client",
) -> None:
    """Make an API key; it is printed once, and only its hash is kept."""
    from service.api.authentication import add_key

    with clear_errors():
        print(add_key(keys, tenant, role))
