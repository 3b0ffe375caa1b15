"""The model card of a checkpoint, made from its manifest."""

from __future__ import annotations

from typing import Any

from reward_model.checkpoint.manifest import Manifest
from reward_model.model.reward_model import Pooling

# Name and licence of what a recipe may name. A source that is not listed here is shown by its name alone.
SOURCES = {
    "star_bank": "STAR dialogues, bank tasks (MIT)",
    "star_other": "STAR dialogues, other tasks (MIT)",
    "hh_harmless": "Anthropic hh-rlhf, harmless-base (MIT)",
    "oasst1": "OpenAssistant oasst1 rankings (Apache-2.0)",
    "oasst1_zh": "OpenAssistant oasst1 rankings, Chinese (Apache-2.0)",
    "tulu1_human": "Tulu human evaluation (Apache-2.0)",
    "pandalm": "PandaLM test set, three annotators (Apache-2.0)",
    "finegrained_qa": "Fine-grained RLHF, long-form QA (Apache-2.0)",
    "xstest": "XSTest (CC-BY-4.0)",
    "ultrafeedback": "UltraFeedback, judged by a model (MIT)",
    "dpo_mix": "DPO mix, judged by a model (Apache-2.0)",
    "authored": "replies of the bundled policy, judged by this project (Apache-2.0)",
}

_POOLED: dict[Pooling, str] = {
    "last_completion_token": "the state of the reply's last token",
    "mean_completion_tokens": "the mean of the states of the reply's tokens",
}
_COLUMNS = (
    *("source", "pairs in this run", "test pairs", "accuracy", "95 % interval"),
    *("longer wins", "reply only", "bag of words", "next step", "replies"),
)
_HEADER = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}"


def model_card(manifest: Manifest) -> str:
    """README.md of the checkpoint: what it is, what it learned from, how it measured, where it is weak."""
    held_out = manifest.metrics["held_out"]
    rows = "\n".join(_row(name, manifest, figures) for name, figures in held_out.items())
    sources = "\n".join(f"- `{name}`: {SOURCES.get(name, name)}" for name in _all_sources(manifest))
    return f"""# {manifest.id}

An outcome reward model: one real number for a prompt and a complete reply. The first {manifest.layers}
layers of {manifest.base.name} (Apache-2.0), {_tuning(manifest)}, and a linear head on {_POOLED[manifest.pooling]},
trained with the {manifest.recipe["loss"]["kind"]} loss. Scores are unbounded and comparable within one prompt only. A
probability comes from `calibration.json`, which says of which event, on how many labels, and under which
selection policy.

Made {manifest.created} from revision {manifest.git_revision[:12]}.
{_lineage(manifest)}The recipe, the digests of the data and the formatting rule are in `manifest.json`;
the course of the run is in `training_log.json`.

## Held-out pairs

A group (a prompt, a dialogue) is in one split only. `longer wins` is the accuracy of always picking the
longer reply, `reply only` that of the model behind an empty prompt, `bag of words` that of a linear model on the
replies' words, and `next step`, for dialogues, that of the reply which most often followed the last one in training;
picking at random gives 0.5. `replies` counts the distinct ones, and those that also stand in training pairs.
Intervals are clustered by dialogue.

{_HEADER}
{rows}

## Limits

The backbone is small and knows little: it judges the form and the next step of a service reply better than
facts. Outside the sources above, expect it to be near its baselines. English carries nearly all the weight.
Which adversarial replies were tried, and how often they won, is in `redteam.json`; without that file none were.

## Sources and licences

{sources}

None of their text is in this folder.
"""


def _tuning(manifest: Manifest) -> str:
    model = manifest.recipe["model"]
    return f"with a LoRA adapter of rank {model['lora_rank']}" if model["tuning"] == "lora" else "tuned in full"


def _all_sources(manifest: Manifest) -> list[str]:
    earlier = manifest.parent["recipe"]["sources"] if manifest.parent else {}
    return list({**earlier, **manifest.data["trained"]})


def _lineage(manifest: Manifest) -> str:
    if manifest.parent is None:
        return ""
    return f"Training went on from {manifest.parent['id']}, whose recipe is in the manifest too.\n"


def _row(name: str, manifest: Manifest, figures: dict[str, Any]) -> str:
    trained = manifest.data["trained"].get(name, 0)
    if not figures["pairs"]:
        return f"| {name} | {trained} | 0 |{' - |' * 7}"
    low, high = figures["accuracy_ci"]
    return (
        f"| {name} | {trained} | {figures['pairs']} | {figures['accuracy']:.3f} | {low:.3f} to {high:.3f} "
        f"| {figures['longer_wins']:.3f} | {' | '.join(_beside(figures.get('baselines', {})))} |"
    )


def _beside(baselines: dict[str, Any]) -> list[str]:
    names = ("reply_only", "bag_of_words", "next_step")
    shown = [f"{baselines[name]['accuracy']:.3f}" if name in baselines else "-" for name in names]
    replies = baselines.get("replies")
    if replies is None:
        return [*shown, "-"]
    known = "" if replies["in_training"] is None else f", {replies['in_training']} in training"
    return [*shown, f"{replies['distinct']}{known}"]
