"""`winnow data split`: the train, validation and test parts of a data folder, by group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from reward_model.digests import sha256_of
from reward_model.errors import BadInput
from reward_model.jsonl import read_jsonl, write_jsonl
from reward_model.labels import Pair, Split, digest, parse_row, split_of

MANIFEST = "splits.json"


def split_folder(data: Path, out: Path) -> dict[str, Any]:
    """Split every `data/preferences/*.jsonl[.gz]` into `out/{train,validation,test}/NAME.jsonl.gz`.

    Rows are written as they were read. `out/splits.json`, which is also returned, says of each file what it
    was made from and, for each part, its pairs, its groups and the digest that manifests of checkpoints
    carry. Raises BadInput for a folder without pairs, or one that exists already.
    """
    sources = sorted([*(data / "preferences").glob("*.jsonl.gz"), *(data / "preferences").glob("*.jsonl")])
    if not sources:
        raise BadInput(f"{data}/preferences has no .jsonl or .jsonl.gz file")
    if out.exists():
        raise BadInput(f"{out} exists; choose another --out")
    report = {source.name.split(".jsonl")[0]: _split_file(source, out) for source in sources}
    (out / MANIFEST).write_text(json.dumps(report, indent=1) + "\n")
    return report


def _split_file(source: Path, out: Path) -> dict[str, Any]:
    rows: dict[Split, list[tuple[Pair, dict[str, Any]]]] = {name: [] for name in get_args(Split)}
    for number, raw in read_jsonl(str(source)):
        pair = parse_row(raw, Pair, f"{source}, line {number}")
        rows[split_of(pair.group)].append((pair, raw))
    report: dict[str, Any] = {"sha256": sha256_of(source)}
    for name, members in rows.items():
        path = out / name / f"{source.name.split('.jsonl')[0]}.jsonl.gz"
        write_jsonl(path, (raw for _, raw in members))
        pairs = [pair for pair, _ in members]
        report[name] = {
            "pairs": len(pairs),
            "groups": len({pair.group for pair in pairs}),
            "digest": digest(pairs),
        }
    return report
