"""`winnow bench`: measurements that end in one JSON object on the standard output."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

_ENVIRONMENTS = Path("~/.cache/winnow/bench").expanduser()

bench_app = typer.Typer(add_completion=False, no_args_is_help=True)


@bench_app.callback()
def _root() -> None:
    """Benchmarks: run them on a machine that does nothing else."""


@bench_app.command()
def machine(
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    policy_url: Annotated[
        str | None, typer.Option(help="Measure this policy too, such as `winnow policy` runs.")
    ] = None,
) -> None:
    """Measure what this machine can do at best (about half a minute)."""
    from aiohttp import ClientError

    from loadtest.bench.machine import measure

    try:
        found = measure(device, policy_url)
    except ClientError as error:
        typer.echo(f"winnow bench: {policy_url} cannot be measured: {error}", err=True)
        raise typer.Exit(2) from error
    except (RuntimeError, AssertionError) as error:
        typer.echo(f"winnow bench: the device {device!r} cannot be used: {str(error).splitlines()[0]}", err=True)
        raise typer.Exit(2) from error
    typer.echo(json.dumps(asdict(found), indent=2))


@bench_app.command()
def scoring(
    model: Annotated[
        Path, typer.Argument(help="A one-label sequence classifier, as `winnow models export` writes it.")
    ],
    rounds: Annotated[int, typer.Option(min=3, help="Rounds at each shape, after one to warm up.")] = 10,
    without: Annotated[list[str] | None, typer.Option(help="Leave out a peer; repeatable.")] = None,
    logs: Annotated[Path | None, typer.Option(help="Folder for the servers' logs.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table instead of JSON.")] = False,
) -> None:
    """Score completions with Winnow, vLLM's pooling server and plain transformers (about five minutes)."""
    from loadtest.bench import scoring as bench
    from loadtest.bench.machine import measure

    if not (model / "config.json").is_file():
        raise typer.BadParameter(f"{model} is no folder of a model: it has no config.json")
    peers = _peers(bench.PEERS, without)
    rate = measure().square_gflops["bf16"]
    with _clear_errors():
        found = bench.run(model, rounds, _folder(logs), _say, peers)
    typer.echo(bench.table(found, rate) if markdown else json.dumps(found | {"machine_bf16_gflops": rate}, indent=2))


@bench_app.command()
def end_to_end(
    rounds: Annotated[int, typer.Option(min=3, help="Prompts, each answered once by every contestant.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=8, help="Completion tokens at most.")] = 96,
    preamble: Annotated[Path | None, typer.Option(help="Text to put before each prompt, to make it longer.")] = None,
    stop_cost: Annotated[float, typer.Option(help="The adaptive route's `stop_cost`.")] = 0.035,
    stop_marks: Annotated[str, typer.Option(help="The adaptive route's `stop_marks`.")] = "32,48,64,96",
    policy_options: Annotated[str, typer.Option(help="Further options of vLLM, such as '--stream-interval 8'.")] = "",
    without: Annotated[list[str] | None, typer.Option(help="Leave out a peer; repeatable.")] = None,
    environments: Annotated[Path, typer.Option(help="Folder of the peers' own virtual environments.")] = _ENVIRONMENTS,
    logs: Annotated[Path | None, typer.Option(help="Folder for the servers' logs.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table instead of JSON.")] = False,
) -> None:
    """Answer prompts by best of 8: unscored, scored, adaptively, and as peers do it (about twenty minutes)."""
    from loadtest.bench import end_to_end as bench

    adaptive = {"stop_cost": stop_cost, "stop_marks": [int(mark) for mark in stop_marks.split(",")]}
    text = preamble.read_text(encoding="utf-8") if preamble else ""
    peers = _peers(bench.PEERS, without)
    setup = bench.EndToEndSetup(rounds, max_tokens, text, adaptive, peers, shlex.split(policy_options))
    with _clear_errors():
        found = bench.run(setup, _folder(logs), environments, _say)
    typer.echo(bench.table(found) if markdown else json.dumps(found, indent=2))


@bench_app.command()
def gateway(
    rounds: Annotated[int, typer.Option(min=3, help="Rounds, after one to warm up.")] = 8,
    without: Annotated[list[str] | None, typer.Option(help="Leave out a peer; repeatable.")] = None,
    environments: Annotated[Path, typer.Option(help="Folder of the peers' own virtual environments.")] = _ENVIRONMENTS,
    logs: Annotated[Path | None, typer.Option(help="Folder for the servers' logs.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table instead of JSON.")] = False,
) -> None:
    """Pass requests on, as LiteLLM, vllm-router and its_hub do (about five minutes)."""
    from loadtest.bench import gateway as bench

    peers = _peers(bench.PEERS, without)
    with _clear_errors():
        found = bench.run(rounds, _folder(logs), environments, peers, _say)
    typer.echo(bench.table(found) if markdown else json.dumps(found, indent=2))


@bench_app.command()
def deadline(
    budget_ms: Annotated[int, typer.Option(min=500, help="Each request's budget.")] = 4_000,
    duration: Annotated[float, typer.Option(min=5, help="Seconds of a run.")] = 40.0,
    rate: Annotated[float, typer.Option(help="First rate that is tried.")] = 0.5,
    max_tokens: Annotated[int, typer.Option(min=8, help="Completion tokens at most.")] = 96,
    prefill_ms: Annotated[float, typer.Option(help="The policy's time to its first token.")] = 60.0,
    step_ms: Annotated[float, typer.Option(help="Its time for a token.")] = 15.0,
    sequence_ms: Annotated[float, typer.Option(help="What each further sequence adds to that.")] = 0.1,
    logs: Annotated[Path | None, typer.Option(help="Folder for the servers' logs.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table instead of JSON.")] = False,
) -> None:
    """See whether budgets hold under load, with a policy that only keeps time (about six minutes)."""
    from loadtest.bench import deadline as bench
    from loadtest.bench.fake_policy import Pace

    pace = Pace(prefill_ms, step_ms, sequence_ms, most=256, tokens=max_tokens, shortest=max_tokens // 3)
    with _clear_errors():
        found = bench.run(bench.DeadlineSetup(duration, budget_ms, max_tokens, rate, pace), _folder(logs), _say)
    typer.echo(bench.table(found) if markdown else json.dumps(found, indent=2))


@bench_app.command()
def scorer(
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cuda",
    shape: Annotated[str, typer.Option(help="Of the random model: 7b or 135m.")] = "7b",
    rates: Annotated[str, typer.Option(help="Requests a second, rising.")] = "0.5,1,2,4,8,12,16",
    duration: Annotated[float, typer.Option(min=2, help="Seconds at each rate.")] = 20.0,
    prompt_words: Annotated[int, typer.Option(min=1, help="Words of a prompt, about as many tokens.")] = 900,
    completion_words: Annotated[int, typer.Option(min=1, help="Words of a completion at most.")] = 230,
    word_ms: Annotated[float, typer.Option(min=0, help="How long the policy takes for one.")] = 15.0,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the random checkpoint there (14 GB for 7b), or find it there.")
    ] = None,
    logs: Annotated[Path | None, typer.Option(help="Folder for the servers' logs.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table instead of JSON.")] = False,
) -> None:
    """Load the scorer alone at rising rates, with a random model of 7B parameters (about five minutes on a GPU)."""
    from loadtest.bench import scorer as bench

    if shape not in bench.SHAPES:
        raise typer.BadParameter(f"no shape is called {shape!r}; there are {', '.join(bench.SHAPES)}")
    try:
        rising = [float(rate) for rate in rates.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--rates {rates!r} is not a list of numbers such as 0.5,1,2") from error
    if min(rising) <= 0:
        raise typer.BadParameter(f"--rates {rates!r}: each must be more than 0")
    setup = bench.ScorerSetup(shape, device, rising, duration, prompt_words, completion_words, word_ms)
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as made, _clear_errors():
        found = bench.run(setup, folder or Path(made) / shape, _folder(logs), _say)
    typer.echo(bench.table(found) if markdown else json.dumps(found, indent=2))


@bench_app.command()
def draft(
    guesser: Annotated[str, typer.Option("--draft", help="`ngram`, or a smaller model.")] = "ngram",
    draft_tokens: Annotated[int, typer.Option(min=1, help="Tokens that are guessed ahead.")] = 4,
    rounds: Annotated[int, typer.Option(min=3, help="Prompts, each sampled eight times by both.")] = 10,
    max_tokens: Annotated[int, typer.Option(min=8, help="Completion tokens at most.")] = 96,
    logs: Annotated[Path | None, typer.Option(help="Folder for the servers' logs.")] = None,
) -> None:
    """See what speculative decoding brings (about five minutes)."""
    from loadtest.bench import draft as bench

    with _clear_errors():
        found = bench.run(rounds, max_tokens, guesser, draft_tokens, _folder(logs), _say)
    typer.echo(json.dumps(found, indent=2))


def _peers(known: Sequence[str], without: list[str] | None) -> list[str]:
    if unknown := set(without or ()) - set(known):
        raise typer.BadParameter(f"no peer is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [name for name in known if name not in (without or ())]


def _folder(logs: Path | None) -> Path:
    folder = logs or Path(tempfile.mkdtemp(prefix="winnow-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _say(line: str) -> None:
    typer.echo(line, err=True)


@contextmanager
def _clear_errors() -> Iterator[None]:
    from loadtest.errors import LoadTestError

    try:
        yield
    except LoadTestError as error:
        typer.echo(f"winnow bench: {error}", err=True)
        raise typer.Exit(2) from error
