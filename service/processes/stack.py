"""What `winnow serve` runs, decided from its command line, the environment and the settings file, in this order.

What none of them names has defaults of its own here: the profile `demo`, a demo key, a policy and a scorer on this
machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import SetupError
from service.processes.child import Program
from service.processes.policy_model import BUNDLED, served_name
from service.processes.ports import base_url, require_free_port
from service.settings import PolicySettings, Settings, load_settings, state_folder

# A stopping gateway also closes connections and writes what the store waits for.
_GATEWAY_MARGIN_SECONDS = 15.0
_SCORER_DRAIN_SECONDS = 25.0
_POLICY_DRAIN_SECONDS = 15.0

# Asks a policy which models it serves.
ListModels = Callable[[PolicySettings], list[str]]


@dataclass(frozen=True)
class ServeOptions:
    """The command line; None where an option was not given."""

    config: Path | None = None
    host: str | None = None
    port: int | None = None
    policy_port: int = 8001
    scorer_port: int = 8002
    model: str | None = None
    draft: str | None = None
    orm: str | None = None
    policy_url: str | None = None
    policy_model: str | None = None
    scorer_url: str | None = None
    profile: str | None = None
    state: Path | None = None
    policy_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stack:
    """What is run, and what a person should know about it before it starts."""

    url: str
    profile: str
    state: Path
    keys_file: Path
    # Whether the keys file is ours to write a demo key into.
    own_keys: bool
    bundled_policy: bool
    drain_seconds: float
    programs: list[Program]
    ports: list[tuple[str, int, str]]
    notes: list[str]

    def require_free_ports(self) -> None:
        """Raises SetupError, naming the option to change, when a port is taken."""
        for host, port, option in self.ports:
            require_free_port(host, port, option)


def plan(options: ServeOptions, list_models: ListModels) -> Stack:
    """Decide what to run; raises SetupError for options and settings that contradict each other."""
    settings = load_settings(
        options.config,
        host=options.host,
        port=options.port,
        profile=options.profile,
        policy_url=options.policy_url,
        policy_model=options.policy_model,
        scorer_url=options.scorer_url,
    )
    return _Planner(options, settings, list_models).stack()


class _Planner:
    """Options over settings, each question answered once."""

    def __init__(self, options: ServeOptions, settings: Settings, list_models: ListModels) -> None:
        self._options = options
        self._settings = settings
        self._given = settings.model_fields_set
        self._list_models = list_models
        self._state = options.state or state_folder()
        self._notes: list[str] = []
        self._check()
        self._starts_policy = options.model is not None or "policy_url" not in self._given
        self._starts_scorer = options.orm is not None or "scorer_url" not in self._given
        self._model = options.model or BUNDLED
        # A setting of the scorer's own; the others it reads by itself.
        self._scorer_host = os.environ.get("WINNOW_SCORER_HOST", "127.0.0.1")

    def stack(self) -> Stack:
        settings, given = self._settings, self._given
        own_keys = settings.keys_file is None
        keys_file = settings.keys_file or self._state / "keys.json"
        if not own_keys and not keys_file.is_file():
            raise SetupError(f"keys_file: {keys_file} does not exist; make it: winnow key make TENANT --keys FILE")
        profile = settings.profile if "profile" in given else "demo"
        gateway = self._gateway(keys_file, profile)
        programs = [*self._upstreams(), gateway]
        return Stack(
            url=base_url(settings.host, settings.port),
            profile=profile,
            state=self._state,
            keys_file=keys_file,
            own_keys=own_keys,
            bundled_policy=self._starts_policy and self._model == BUNDLED,
            drain_seconds=gateway.drain_seconds,
            programs=programs,
            ports=self._ports(),
            notes=self._notes,
        )

    def _check(self) -> None:
        options = self._options
        if options.model is not None and options.policy_url is not None:
            raise SetupError("--model starts a policy and --policy-url uses one that runs: give one of them")
        if options.orm is not None and options.scorer_url is not None:
            raise SetupError("--orm starts a scorer and --scorer-url uses one that runs: give one of them")
        if self._settings.port == 0:
            raise SetupError("port: `winnow serve` needs a port of its own, not 0")
        if any(option.split("=")[0] == "--served-model-name" for option in options.policy_options):
            raise SetupError("--served-model-name: use --policy-model, so that the gateway asks for that name too")
        if options.model is None and "policy_url" in self._given and (options.draft or options.policy_options):
            unused = ["--draft"] if options.draft else list(options.policy_options)
            raise SetupError(
                f"{' '.join(unused)}: nothing takes this, because the policy at {self._settings.policy_url} is not "
                "started here; set it where that policy is started"
            )

    def _upstreams(self) -> list[Program]:
        programs: list[Program] = []
        if self._starts_scorer:
            programs.append(self._scorer())
        else:
            self._notes.append(f"The scorer is {self._settings.scorer_url}; none is started here.")
        if self._starts_policy:
            programs.append(self._policy())
        else:
            self._notes.append(f"The policy is {self._settings.policy_url}; none is started here.")
        for setting, started in (("policy_url", self._starts_policy), ("scorer_url", self._starts_scorer)):
            if started and setting in self._given:
                option = "--model" if setting == "policy_url" else "--orm"
                self._notes.append(f"{setting} of the settings is not used: {option} starts one here.")
        return programs

    def _scorer(self) -> Program:
        port = self._options.scorer_port
        arguments = _command("scorer", "--host", self._scorer_host, "--port", str(port))
        if self._options.orm is not None:
            arguments += ["--model", self._options.orm]
        environment = _secret("WINNOW_SCORER_API_KEY", self._settings.scorer_api_key)
        health = f"{base_url(self._scorer_host, port)}/readyz"
        return self._program("scorer", arguments, health, environment, _SCORER_DRAIN_SECONDS)

    def _policy(self) -> Program:
        port = self._options.policy_port
        arguments = _command(
            "policy", "--model", self._model, "--served-name", self._policy_name(), "--port", str(port)
        )
        if self._options.draft is not None:
            arguments += ["--draft", self._options.draft]
        arguments += self._options.policy_options
        environment = _secret("VLLM_API_KEY", self._settings.policy_api_key)
        health = f"{base_url('127.0.0.1', port)}/health"
        return self._program("policy", arguments, health, environment, _POLICY_DRAIN_SECONDS)

    def _gateway(self, keys_file: Path, profile: str) -> Program:
        settings, options = self._settings, self._options
        arguments = _command("gateway", "--host", settings.host, "--port", str(settings.port))
        if options.config is not None:
            arguments += ["--config", str(options.config)]
        environment = {
            "WINNOW_PROFILE": profile,
            "WINNOW_KEYS_FILE": str(keys_file),
            "WINNOW_STATE_DIR": str(self._state),
            "WINNOW_POLICY_URL": base_url("127.0.0.1", options.policy_port)
            if self._starts_policy
            else settings.policy_url,
            "WINNOW_SCORER_URL": base_url(self._scorer_host, options.scorer_port)
            if self._starts_scorer
            else settings.scorer_url,
            "WINNOW_POLICY_MODEL": self._policy_name(),
        }
        drain = settings.drain_seconds + settings.drain_delay_seconds + _GATEWAY_MARGIN_SECONDS
        url = base_url(settings.host, settings.port)
        return self._program("gateway", arguments, f"{url}/readyz", environment, drain)

    def _program(
        self, name: str, arguments: list[str], health: str, environment: Mapping[str, str], drain_seconds: float
    ) -> Program:
        return Program(name, arguments, health, self._state / "logs" / f"{name}.log", dict(environment), drain_seconds)

    def _policy_name(self) -> str:
        """The name the policy is asked by: the settings', else the true one."""
        named = self._settings.policy_model if "policy_model" in self._given else None
        if not self._starts_policy:
            return named or self._only_model()
        if named == served_name(BUNDLED) and self._model != BUNDLED:
            raise SetupError(
                f"policy_model: {named} is the bundled model, and --model starts {self._model}; its calibrator does "
                "not hold there. Leave policy_model out, or give another name"
            )
        return named or served_name(self._model)

    def _only_model(self) -> str:
        policy = self._settings.policy("default")
        names = self._list_models(policy)
        if len(names) != 1:
            served = ", ".join(names) if names else "none"
            raise SetupError(f"the policy at {policy.url} serves {served}: name the one to use with --policy-model")
        return names[0]

    def _ports(self) -> list[tuple[str, int, str]]:
        options, settings = self._options, self._settings
        ports = [(settings.host, settings.port, "--port")]
        if self._starts_scorer:
            ports.append((self._scorer_host, options.scorer_port, "--scorer-port"))
        if self._starts_policy:
            ports.append(("127.0.0.1", options.policy_port, "--policy-port"))
        numbers = [port for _, port, _ in ports]
        if twice := [option for _, port, option in ports if numbers.count(port) > 1]:
            raise SetupError(f"{' and '.join(twice)} are the same port: choose another for one of them")
        return ports


def _command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "service", name, *arguments]


def _secret(variable: str, value: str | None) -> dict[str, str]:
    """The key that the gateway will send, for the process that checks it."""
    return {} if value is None else {variable: value}
