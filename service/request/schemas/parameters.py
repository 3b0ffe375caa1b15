"""Parameters beyond OpenAI's: which pass on to the policy, and which change what is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from service.errors import InvalidRequest

# Options under which the same candidates are sampled, whatever their value. A calibrator says itself for which top_p
# and min_p it holds; tools are part of the prompt.
_SAME_SAMPLES = {"top_p", "min_p", "logprobs", "top_logprobs", "tools", "include_reasoning"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_k": (-1, 0),
    "repetition_penalty": (1.0,),
    "frequency_penalty": (0.0,),
    "presence_penalty": (0.0,),
    "logit_bias": ({},),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "chat_template_kwargs": ({},),
    "stop_token_ids": ([],),
    "bad_words": ([],),
}
# Older vLLM took each as a parameter of its own.
_GUIDED = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}


@dataclass(frozen=True)
class ParameterRules:
    """The operator's rules: what passes on, and what becomes of the rest."""

    passed: frozenset[str] = frozenset()
    unknown: Literal["refuse", "ignore"] = "refuse"

    def sort(self, raw: Mapping[str, Any], known: frozenset[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The fields to keep, and the names of those to ignore; InvalidRequest for one that is refused."""
        kept, ignored = dict[str, Any](), list[str]()
        for name, value in raw.items():
            if name in known or value is None:
                kept[name] = value
            elif name in self.passed:
                _pass_on(kept, name, value)
            elif self.unknown == "ignore" or name in _WITHOUT_EFFECT:
                ignored.append(name)
            else:
                raise InvalidRequest(f"{name} is not a parameter of this API", param=name, code="unknown_parameter")
        return {name: value for name, value in kept.items() if value is not None}, tuple(ignored)


# OpenAI's own, sent by many clients unasked. A policy that knows them gets them if the operator says so.
_WITHOUT_EFFECT = {"reasoning_effort"}


def _pass_on(kept: dict[str, Any], name: str, value: Any) -> None:
    guided = _GUIDED.get(name)
    target, shown = ("structured_outputs", {guided: value}) if guided else (name, value)
    if target in kept:
        raise InvalidRequest(f"{name} stands beside another constraint; send one", param=name)
    kept[target] = shown


def changing_options(options: Mapping[str, Any]) -> frozenset[str]:
    """The names of those that change what is sampled; one that is not known here does."""
    return frozenset(
        name for name, value in options.items() if name not in _SAME_SAMPLES and value not in _NEUTRAL.get(name, ())
    )
