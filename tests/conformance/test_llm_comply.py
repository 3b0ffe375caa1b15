"""llm-comply's suites of OpenAI's chat and responses APIs against a real gateway. What fails is known and explained."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

# Only text can be scored, so images are refused; a compacted conversation would have to be kept here.
EXPLAINED = {
    "openai-chat": {"chat-image-input"},
    "open-responses": {"image-input"},
}


@pytest.mark.parametrize("suite", EXPLAINED)
async def test_a_suite_passes(demo: Any, script: Any, suite: str) -> None:
    def answer(body: dict[str, Any], i: int) -> Any:
        if not (tools := body.get("tools")):
            return script(["Hello ", "there."])
        function = {"name": tools[0]["function"]["name"], "arguments": '{"location": "Paris"}'}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        return script([], tool_calls=[call], finish_reason="tool_calls")

    demo.policy.answer = answer
    command = ["-m", "llm_comply.cli", "--format", suite, "-u", f"{demo.url}/v1", "-k", demo.key, "-m", "winnow"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--json", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    results = json.loads(output)["results"]
    failed = {each["id"]: each["errors"] for each in results if each["status"] == "failed"}
    assert set(failed) == EXPLAINED[suite], (failed, errors.decode())
    assert sum(each["status"] == "passed" for each in results) >= 7
