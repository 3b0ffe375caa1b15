"""What a person sees while processes start: a table that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from service.processes.child import Child

_HEARTBEAT_SECONDS = 10.0
_REFRESH_PER_SECOND = 4


class Progress:
    """Events as lines; between them, what each process is doing."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, name: str, what: str) -> None:
        """One thing that happened to a process."""
        self._console.print(Text.assemble((f"{name:8}", "bold"), " ", what), soft_wrap=True)

    def note(self, text: str) -> None:
        """Something to know."""
        self._console.print(Text(text), soft_wrap=True)

    @asynccontextmanager
    async def starting(self, children: Sequence[Child]) -> AsyncIterator[None]:
        """Show that the children start, for as long as the block runs."""
        if self._console.is_terminal:
            view = _StartView(children)
            with Live(view, console=self._console, transient=True, refresh_per_second=_REFRESH_PER_SECOND):
                yield
            return
        heartbeat = asyncio.create_task(self._heartbeat(children))
        try:
            yield
        finally:
            heartbeat.cancel()

    async def _heartbeat(self, children: Sequence[Child]) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            waiting = ", ".join(child.program.name for child in children if not child.ready)
            self.note(f"         still starting after {time.monotonic() - began:.0f} s: {waiting}")


class _StartView:
    """A row for each process that is not ready yet, with the last line of its log."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._began = time.monotonic()
        self._spinner = Spinner("dots")

    def __rich__(self) -> Group:
        rows = Table.grid(padding=(0, 1))
        rows.add_column(no_wrap=True)
        rows.add_column(no_wrap=True)
        rows.add_column(no_wrap=True, overflow="ellipsis", style="dim")
        for child in self._children:
            if not child.ready:
                last = child.log.tail(1) if child.started_at else []
                rows.add_row(self._spinner, child.program.name, Text(last[0] if last else "starting"))
        passed = time.monotonic() - self._began
        title = Text(f"Starting for {passed:.0f} s; a bundled model takes about a minute, a larger one longer")
        return Group(title, rows)
