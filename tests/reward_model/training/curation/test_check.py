from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reward_model.labels import Pair, split_of
from reward_model.text.formatting import Formatter
from reward_model.training.curation.check import DataLimits, check, mix
from reward_model.training.curation.check_report import check_report
from reward_model.training.curation.reading import PairFile
from reward_model.training.data_cli import data_app

Row = dict[str, Any]
MakePair = Callable[..., Pair]
# Nothing but what a test is about.
QUIET = DataLimits(min_bucket=0)


def _file(*pairs: Pair, path: str = "pairs.jsonl") -> PairFile:
    return PairFile(path, list(pairs), list(range(1, len(pairs) + 1)))


def _codes(result: dict[str, Any]) -> set[str]:
    return {warning["code"] for warning in result["warnings"]}


def test_clean_pairs_raise_no_warning(pair: MakePair) -> None:
    result = check(
        [_file(pair("a", "Yes.", "Never.", prompt="May I?"), pair("b", "No way.", "Yes", prompt="How?"))], QUIET
    )
    assert (result["pairs"], result["groups"], result["warnings"]) == (2, 2, [])


def test_copies_contradictions_and_near_duplicates(pair: MakePair) -> None:
    long = "You can return it within 30 days, with the receipt, to any of our shops in the country. " * 3
    pairs = [
        pair("a", "Yes.", "No.", prompt="May I?"),
        pair("b", "yes.", "No. ", prompt="may  I?"),
        pair("c", "No.", "Yes.", prompt="May I?"),
        pair("d", long, "No.", prompt="How long do I have to return the blue coat?"),
        pair("e", long + "!", "No.", prompt="How long do I have to return the blue coat"),
        # The long reply is the same; the other one is not.
        pair("f", long, "We value your custom.", prompt="How long do I have to return the blue coat?"),
        pair("g", "Same.", "same.", prompt="Why?"),
        pair("g", "", "x", prompt="When?"),
    ]
    found = check([_file(*pairs)], QUIET)["duplicates"]
    assert (found["copies"], found["contradictions"], found["near"]) == (2, 1, 1)
    assert (found["repeated_ids"], found["identical_replies"], found["empty_winners"]) == (1, 1, 1)
    assert found["examples"]["contradictions"] == [["pairs.jsonl:1", "pairs.jsonl:2", "pairs.jsonl:3"]]
    assert found["examples"]["near"] == [["pairs.jsonl:4", "pairs.jsonl:5"]]


def test_pairs_that_truncation_makes_equal_are_found(pair: MakePair, formatter: Formatter) -> None:
    long = "refund " * 70
    pairs = [
        pair("a", long + "Then confirm.", long + "Then shout.", prompt="How do I close it?"),
        pair("b", "Then confirm. " + long, "Then shout. " + long, prompt="Where is my card?"),
        pair("c", "Same.", "Same.", prompt="Why?"),
    ]
    result = check([_file(*pairs)], QUIET, formatter=formatter)
    found = result["truncation"]
    assert (found["equal_after_truncation"], found["max_completion_tokens"]) == (2, 64)
    assert found["examples"]["equal_after_truncation"] == [["pairs.jsonl:1"], ["pairs.jsonl:3"]]
    (message,) = [w["message"] for w in result["warnings"] if w["code"] == "equal_after_truncation"]
    assert message.startswith("In 2 pairs both replies are the same tokens after truncation")
    assert "equal after truncation" in check_report(result).html()
    clean = check([_file(pairs[1])], QUIET, formatter=formatter)
    assert "equal_after_truncation" not in _codes(clean)
    assert check([_file(*pairs)], QUIET)["truncation"] is None


def test_the_command_reads_as_its_model_does(checkpoint: Path, tmp_path: Path, row: Callable[..., Row]) -> None:
    """70 words are cut by the tiny model, and not by the bundled one."""
    long = "refund " * 70
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row("a", long + "Then confirm.", long + "Then shout.")) + "\n")
    found = {
        name: json.loads(_run(str(path), "--model", model).stdout)["truncation"]["equal_after_truncation"]
        for name, model in {"tiny": str(checkpoint), "bundled": "winnow-orm"}.items()
    }
    assert found == {"tiny": 1, "bundled": 0}


def test_a_tie_contradicts_a_win(pair: MakePair) -> None:
    copies = [pair("a", "A", "B", prompt="x"), pair("b", "A", "B", prompt="x", outcome="tie")]
    assert check([_file(*copies)], QUIET)["duplicates"]["contradictions"] == 1
    tied = [pair("a", "A", "B", prompt="x", outcome="tie"), pair("b", "B", "A", prompt="x", outcome="tie")]
    assert check([_file(*tied)], QUIET)["duplicates"]["contradictions"] == 0


def test_prompts_and_groups_leak_between_files(pair: MakePair) -> None:
    asked = "My card was charged twice for order 1182, what can I do about it?"
    train = _file(pair("a", prompt="One"), pair("b", prompt="Two"), pair("c", prompt=asked), path="train.jsonl")
    test = _file(
        pair("d", prompt="Other", group="a"),
        pair("e", prompt="TWO"),
        pair("f", prompt=asked[:-1]),
        path="x/test/pairs.jsonl",
    )
    result = check([train, test], QUIET)
    found = result["leakage"]
    assert found["splits"] == {"train": 3, "test": 3}
    assert (found["groups"], found["prompts"], found["near_prompts"]) == (1, 1, 1)
    assert found["examples"]["near_prompts"] == [["train.jsonl:3", "x/test/pairs.jsonl:3"]]
    assert {"leakage_groups", "leakage_prompts", "leakage_near_prompts"} <= _codes(result)


def test_near_prompts_under_different_policies_do_not_leak(pair: MakePair) -> None:
    def prompt(policy: str) -> list[Row]:
        return [
            {"role": "system", "content": policy},
            {"role": "user", "content": "Can I return the coat after 20 days?"},
        ]

    files = [_file(pair("a", prompt=prompt("1. 30 days.")), path="train.jsonl")]
    files += [_file(pair("b", prompt=prompt("1. 14 days.")), path="test.jsonl")]
    assert check(files, QUIET)["leakage"]["near_prompts"] == 0


def test_near_prompts_of_one_group_are_the_group_s_leak(pair: MakePair) -> None:
    asked = "My card was charged twice for order 1182, what can I do about it?"
    train = _file(pair("a", prompt=asked, group="g"), path="train.jsonl")
    found = check([train, _file(pair("b", prompt=asked + "?", group="g"), path="test.jsonl")], QUIET)["leakage"]
    assert (found["groups"], found["near_prompts"]) == (1, 0)


def test_one_set_is_split_as_training_splits_it(pair: MakePair) -> None:
    held_out = next(name for name in map(str, range(100)) if split_of(name) == "test")
    trained = next(name for name in map(str, range(100)) if split_of(name) == "train")
    files = [_file(pair(held_out, prompt="x"), path="a.jsonl"), _file(pair(trained, prompt="x"), path="b.jsonl")]
    found = check(files, QUIET, one_set=True)["leakage"]
    assert (found["splits"], found["prompts"]) == ({"test": 1, "train": 1}, 1)
    named = [_file(pair(held_out, prompt="x", split="train"), pair(trained, prompt="x"))]
    assert check(named, QUIET)["leakage"]["prompts"] == 0


def test_a_bucket_of_the_policy_alone_is_warned_about(pair: MakePair) -> None:
    both = {"chosen": "policy", "rejected": "older_policy"}
    pairs = [pair("a", bucket="refund", origin=both), pair("b", bucket="fraud", origin={**both, "chosen": "human"})]
    result = check([_file(*pairs, pair("c", bucket="billing"))], QUIET)
    buckets = result["mix"]["by_bucket"]
    assert {name: bucket["policy_only"] for name, bucket in buckets.items()} == {
        "billing": False, "fraud": False, "refund": True,
    }  # fmt: skip
    assert buckets["fraud"]["origin"] == {"human": 1, "older_policy": 1}
    assert [w["message"][:7] for w in result["warnings"] if w["code"] == "policy_only"] == ["refund:"]


def test_the_mix_counts_labels_and_dimensions(pair: MakePair) -> None:
    pairs = [pair("a", dimensions={"brevity": 1, "honesty": 0}), pair("b", dimensions={"brevity": -1}, label=None)]
    found = mix(pairs)
    assert found["label"] == {"human": 1, "unknown": 1}
    assert found["dimensions"]["brevity"] == {"pairs": 2, "chosen": 1, "equal": 0, "rejected": 1}
    assert found["dimensions"]["honesty"] == {"pairs": 1, "chosen": 0, "equal": 1, "rejected": 0}


def test_biases_disagreement_and_drift_are_warned_about(pair: MakePair) -> None:
    pairs = []
    for i in range(60):
        votes = [{"id": name, "vote": "chosen", "at": f"2026-0{1 + i // 30}-01T00:00:{i % 30:02}Z"} for name in "abc"]
        votes[2]["vote"] = "rejected" if i >= 30 else "chosen"
        asked = sha256(str(i).encode()).hexdigest()
        pairs.append(
            pair(str(i), "long reply", "short", prompt=asked, shown_first="chosen", bucket="refund", annotators=votes)
        )
    result = check([_file(*pairs)], DataLimits(min_agreement=0.7, min_bucket=61))
    # In the second half c is against a and b: one comparison of three agrees.
    assert result["agreement"]["refund"]["agreement"] == pytest.approx(2 / 3, abs=1e-4)
    assert result["rare_buckets"] == {"refund": 60}
    assert _codes(result) == {
        "position_bias", "length_bias", "rare_bucket", "low_agreement", "annotator", "drift"
    }  # fmt: skip
    assert [w["message"][0] for w in result["warnings"] if w["code"] == "drift"] == ["c"]
    assert sum(b["pairs"] for b in result["length"]["ratio_histogram"]) == 60
    assert [b["pairs"] for b in result["length"]["ratio_histogram"] if b["from"] == 1.5] == [60]  # 11 over 6


def test_winners_that_are_always_short_are_a_bias_too(pair: MakePair) -> None:
    pairs = [
        pair(str(i), "short", f"a longer reply {i}", prompt=sha256(str(i).encode()).hexdigest()) for i in range(20)
    ]
    warnings = check([_file(*pairs)], QUIET)["warnings"]
    assert [w["message"] for w in warnings] == [
        f"{name}: the longer reply wins in 0% of 20 pairs; a model can learn that alone."
        for name in ("All pairs", "unknown")
    ]


def test_a_crowd_of_annotators_is_tested_more_strictly(pair: MakePair) -> None:
    def judged(name: str, wrong: int) -> list[Pair]:
        """24 votes, the last `wrong` of them against the outcome."""
        return [
            pair(
                f"{name}{i}",
                prompt=sha256(f"{name}{i}".encode()).hexdigest(),
                annotators=[
                    {
                        "id": name,
                        "vote": "rejected" if i >= 24 - wrong else "chosen",
                        "at": f"2026-01-{i + 1:02}T00:00Z",
                    }
                ],
            )
            for i in range(24)
        ]

    # 12 of 12, then 5 of 12: p = 0.0046, below 0.01 and above a third of it.
    assert "drift" in _codes(check([_file(*judged("a", 7))], QUIET))
    assert "drift" not in _codes(check([_file(*judged("a", 7), *judged("b", 0), *judged("c", 0))], QUIET))


def test_the_report_shows_every_part(pair: MakePair) -> None:
    votes = [{"id": name, "vote": "chosen", "at": f"2026-01-{day:02}T00:00:00Z"} for name in "ab" for day in (1, 20)]
    pairs = [
        pair("<b>", shown_first="chosen", bucket="<refund>", annotators=votes, dimensions={"brevity": 1}),
        pair("b", origin={"chosen": "human", "rejected": "policy"}, failure_mode="rude"),
    ]
    page = check_report(check([_file(*pairs)])).html()
    for heading in (
        "Warnings",
        "Files",
        "made of",
        "in two splits",
        "come first",
        "longer reply",
        "agree",
        "Annotators",
    ):
        assert heading in page
    assert "&lt;refund&gt;" in page
    assert "<refund>" not in page
    assert page.count("<img") == 5


def test_the_report_of_nothing_is_a_page() -> None:
    page = check_report(check([_file()])).html()
    assert "There are no pairs." in page
    assert "<img" not in page


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(data_app, ["check", *arguments])


def test_the_command_prints_json_and_writes_the_report(
    tmp_path: Path, row: Callable[..., Row], jsonl: Callable[[str, list[Row]], Path]
) -> None:
    path = jsonl("pairs.jsonl", [row("a"), row("b")])
    done = _run(str(path), "--html", str(tmp_path / "out/check.html"), "--min-bucket", "3")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rare_buckets"] == {"unknown": 2}
    assert "warning: unknown: 2 pairs, fewer than 3" in done.stderr
    assert "<h1>Check of preference pairs</h1>" in (tmp_path / "out/check.html").read_text()


def test_strict_fails_on_warnings_and_errors_of_schema_always(
    tmp_path: Path, row: Callable[..., Row], jsonl: Callable[[str, list[Row]], Path]
) -> None:
    path = jsonl("pairs.jsonl", [row("a"), row("b", chosen="No.")])
    assert _run(str(path), "--min-bucket", "2", "--strict").exit_code == 0
    assert _run(str(path), "--min-bucket", "3", "--strict").exit_code == 1
    bad = jsonl("bad.jsonl", [{"id": str(i)} for i in range(30)])
    done = _run(str(path), str(bad), "--json", str(tmp_path / "figures/check.json"))
    assert done.exit_code == 2
    assert done.stdout == ""
    assert f"winnow: {bad}, line 1: prompt: Field required" in done.stderr
    result = json.loads((tmp_path / "figures/check.json").read_text())
    assert result["pairs"] == 2
    assert {(error["file"], error["line"]) for error in result["schema_errors"]} == {
        (str(bad), n) for n in range(1, 31)
    }
