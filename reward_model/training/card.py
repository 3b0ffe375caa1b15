"""The model card of a checkpoint, made from its manifest."""

from __future__ import annotations

from typing import Any

from reward_model.checkpoint import Manifest


def model_card(manifest: Manifest) -> str:
    """README.md of the checkpoint: what it is, what it learned from, how it measured, where it is weak."""
    sources = manifest.data["sources"]
    lines = [
        f"# {manifest.id}",
        "",
        f"An outcome reward model: one real number for a prompt and a complete reply. The first {manifest.layers} layers",
        f"of {manifest.base.name} (Apache-2.0) with a LoRA adapter, and a linear head on the reply's last token. Trained",
        "with the Bradley-Terry loss. Scores are unbounded and comparable within one prompt only; a probability comes",
        "from `calibration.json`, which says of which event.",
        "",
        f"Made {manifest.created} from revision {manifest.git_revision[:12]}; the recipe is in `manifest.json`.",
        "",
        "## Held-out pairs",
        "",
        "Groups (a prompt, a dialogue) never span two splits. `longer wins` is the accuracy of always picking the",
        "longer reply; picking at random gives 0.5.",
        "",
        "| source | trained on | test pairs | accuracy | 95 % interval | longer wins |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in manifest.metrics["held_out"].items():
        lines.append(_row(name, sources[name]["train"]["pairs"], figures))
    lines += [
        "",
        "`trained on` counts the pairs at hand; the recipe may cap them.",
        "",
        "## Limits",
        "",
        "The backbone is small and knows little: it judges the form and the next step of a service reply better than",
        "facts. Outside the sources above, expect it to be near its baselines. English carries nearly all the weight.",
        "",
        "## Sources and licences",
        "",
        "STAR dialogues (MIT), hh-rlhf harmless (MIT), OpenAssistant oasst1 (Apache-2.0), Tulu human preferences",
        "(Apache-2.0), PandaLM (Apache-2.0), XSTest (CC-BY-4.0), UltraFeedback (MIT), where the recipe names them, and",
        "replies of the bundled policy judged by this project (`authored`). None of their text is in this folder.",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, trained: int, figures: dict[str, Any]) -> str:
    if not figures["pairs"]:
        return f"| {name} | {trained} | 0 | - | - | - |"
    low, high = figures["accuracy_ci"]
    return (
        f"| {name} | {trained} | {figures['pairs']} | {figures['accuracy']:.3f} | {low:.3f} to {high:.3f} "
        f"| {figures['longer_wins']:.3f} |"
    )
