"""What the scorer asks of the process that it runs in: one pool of threads, and a C library that keeps memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from reward_model.errors import PreparationError
from reward_model.serving.engine import _cache_bytes, _share, load_configured
from reward_model.serving.settings import ScorerSettings

# Counts threads after the model was loaded as the scorer loads it, and after a thread of its own has computed.
POOLS = """
import os, threading, torch
from reward_model.serving.engine import _one_thread
torch.set_num_threads(4)
count = lambda: len(os.listdir("/proc/self/task"))
def compute():
    a = torch.randn(512, 512)
    for _ in range(3): (a @ a).relu_()
before = count()
with _one_thread(): compute()
loaded = count()
worker = threading.Thread(target=compute); worker.start(); worker.join()
print(loaded - before, torch.get_num_threads())
"""
# Page faults of five times twenty buffers of 8 MB, used and then freed.
FAULTS = """
import ctypes, resource, sys
from reward_model.serving.memory import keep_freed_memory
if sys.argv[1] == "keep": assert keep_freed_memory()
libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p; libc.free.argtypes = [ctypes.c_void_p]
def use():
    buffers = [libc.malloc(8 << 20) for _ in range(20)]
    for at in buffers: ctypes.memset(at, 1, 8 << 20)
    for at in buffers: libc.free(at)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code: str, *arguments: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return [int(part) for part in done.stdout.split()]


def test_loading_starts_no_pool_of_threads() -> None:
    assert run(POOLS) == [0, 4]


WAITING = """
import os, sys
from reward_model.serving import cli
assert "torch" not in sys.modules, "OpenMP would not read it any more"
cli.sleep_while_waiting()
print(os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(given: dict[str, str], expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    done = subprocess.run([sys.executable, "-c", WAITING], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]


CORES = """
import os, torch
from reward_model.serving.engine import load_configured
from reward_model.serving.settings import ScorerSettings
first = min(os.sched_getaffinity(0))
try: load_configured(ScorerSettings(model="nothing", cores=[first]))
except Exception as error: assert "nothing" in str(error)
print(len(os.sched_getaffinity(0)), torch.get_num_threads(), first in os.sched_getaffinity(0))
"""


def test_the_scorer_keeps_to_its_cores_with_a_thread_for_each() -> None:
    done = subprocess.run([sys.executable, "-c", CORES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "True"]


@pytest.mark.parametrize("cores", [[], [100_000]])
def test_cores_that_are_not_there_are_named(cores: list[int]) -> None:
    with pytest.raises(PreparationError, match="this process may use"):
        load_configured(ScorerSettings(cores=cores))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_not_faulted_in_again() -> None:
    (kept,), (given_back,) = run(FAULTS, "keep"), run(FAULTS, "as it comes")
    pages = 5 * 20 * (8 << 20) // 4096
    assert kept < pages / 20
    assert given_back > pages / 2


def test_the_prefix_cache_is_a_share_of_the_device_unless_it_is_said() -> None:
    cpu = torch.device("cpu")
    assert [_cache_bytes(asked, cpu) for asked in (0, 64, None)] == [0, 64_000_000, 512_000_000]
    assert _share(60_000, 80_000) == 8_000
    assert _share(10_000, 80_000) == 5_000, "half of what the model leaves"
