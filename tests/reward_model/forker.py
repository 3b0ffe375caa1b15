"""Runs functions in forked children and kills them with SIGKILL: for tests of what a kill leaves behind.

Usage: `forker.py MODULE ...` imports the modules once; then each line on stdin is a list of jobs that run at once,
`{"call": "module:function", "args": [...], "kill_at": step, "kill_after": seconds, "root": folder}`, and each line on
stdout the list of their exit codes (-9: killed). A job with `kill_at` dies just before it writes, makes, renames or
removes something under `root` for the so-manieth time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def value(raw: Any) -> Any:
    if isinstance(raw, dict) and "path" in raw:
        return Path(raw["path"])
    if isinstance(raw, dict) and "event" in raw:
        return import_module("reward_model.registry.history").Event(**raw)
    return raw


def die_at(step: int, root: str) -> None:
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        reads = event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in STEPS and not reads and str(args[0]).startswith(root):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def start(job: dict[str, Any]) -> int:
    module, function = job["call"].split(":")
    if child := os.fork():
        return child
    try:
        if "kill_at" in job:
            die_at(job["kill_at"], job["root"])
        getattr(import_module(module), function)(*map(value, job["args"]))
        os._exit(0)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def main() -> None:
    for name in sys.argv[1:]:
        import_module(name)
    for line in sys.stdin:
        jobs = json.loads(line)
        children = [start(job) for job in jobs]
        for job, child in zip(jobs, children, strict=True):
            if "kill_after" in job:
                time.sleep(job["kill_after"])
                os.kill(child, signal.SIGKILL)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


main()
