"""The gateway does what its OpenAPI document says, tried with generated requests."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from service.keys.key_file import add_key

# A body may fit its schema and contradict itself: `tool_choice` without tools, or more candidates than a route allows.
LEFT_OUT = "positive_data_acceptance"
OPTIONS = f"""--checks all --exclude-checks {LEFT_OUT} --mode all --phases examples,coverage,fuzzing --max-examples 4
    --seed 20261125 --generation-database none --workers 1 --request-timeout 20 --no-color""".split()


async def test_the_gateway_does_what_its_document_says(start_gateway: Any, tmp_path: Path) -> None:
    store = {"url": f"sqlite:///{tmp_path / 'winnow.db'}"}
    async with start_gateway(profile="demo", store=store, requests_per_minute=1_000_000) as gateway:
        key = add_key(gateway.keys_file, "operators", "admin")
        command = ["run", f"{gateway.url}/openapi.json", "--header", f"Authorization: Bearer {key}", *OPTIONS]
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            *command,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-8_000:]
