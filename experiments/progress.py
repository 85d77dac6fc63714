"""Progress of long work: a bar with time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 15.0


class Reporter:
    """Tells the user what is being done. Everything goes to stderr."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.live = self.console.is_terminal and not quiet
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close_bars()

    def say(self, text: str) -> None:
        """One line about a stage."""
        self.close_bars()
        self.console.print(text, markup=False, soft_wrap=True)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Moves the bar of ``what``; without a terminal, a line at most every 15 seconds."""
        if self.live:
            self._move_bar(what, done, total)
            return
        now = time.monotonic()
        if done == total or now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.console.print(f"  {what}: {done}/{total}", markup=False)

    def _move_bar(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
        if what not in self._tasks:
            for task in self._tasks.values():
                self._bar.update(task, visible=False)
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)

    def close_bars(self) -> None:
        """Takes the bars off the screen."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._tasks = None, {}
