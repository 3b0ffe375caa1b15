"""The Python programs of docs/how-to/clients.md run as they are printed, against a gateway."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "clients.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_the_page_has_its_programs() -> None:
    assert len(PROGRAMS) == 3


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_program_prints_the_reply_and_the_decision(demo: Any, program: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program.replace("http://127.0.0.1:8000", demo.url),
        env=os.environ | {"WINNOW_KEY": demo.key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    assert b"reply " in printed
    assert b"accept" in printed
