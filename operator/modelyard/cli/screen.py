"""What `modelyard up` shows: a live table where there is a terminal, else one line for each thing that happens.

The answer to ``--ask`` goes to standard output. Without a terminal everything else goes to standard error, so that the answer can
be piped.
"""

import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from modelyard.api.progress import Progress
from modelyard.controller.types import Key, PodPhase
from modelyard.local.loop import News
from modelyard.local.meters import Rate
from modelyard.local.model import Seen

_DOING = {
    "start": "starting",
    "resolve": "looking for the weights",
    "download": "downloading",
    "convert": "converting, once",
    "load": "loading",
    "warmup": "warming up",
    "ready": "ready",
}
_STOPPING = "Stopping: running requests finish. Ctrl-C again stops at once."
_PLAIN_STEP = 0.25


class Screen(Protocol):
    """Where a session shows itself. ``rates`` tells a model's figures."""

    rates: Callable[[Key], Rate]

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def serving(self, url: str) -> None:
        """Tells where the gateway answers."""
        ...

    def step(self, seen: Sequence[Seen], news: Sequence[News]) -> None:
        """Shows how the models are, and what has happened."""
        ...

    def say(self, text: str) -> None:
        """Tells something for good."""
        ...

    def problem(self, text: str) -> None:
        """Tells what is wrong."""
        ...

    def begin_answer(self, question: str) -> None:
        """Makes room for an answer."""
        ...

    def answer(self, piece: str) -> None:
        """Shows a piece of the answer."""
        ...

    def end_answer(self) -> None:
        """Ends the answer."""
        ...

    def stopping(self) -> None:
        """Tells that the end has begun."""
        ...


def _no_rate(_: Key) -> Rate:
    return Rate()


class PlainScreen:
    """Lines."""

    def __init__(self) -> None:
        self.rates: Callable[[Key], Rate] = _no_rate
        self._told: dict[str, str] = {}
        self._answered = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def serving(self, url: str) -> None:
        """Tells where the gateway answers."""
        self.say(f"Serving at {url}")

    def step(self, seen: Sequence[Seen], news: Sequence[News]) -> None:
        """Prints what is new of each model, and of each replica that starts."""
        for one in seen:
            name = one.model.metadata.name
            self._once(name, f"{one.ready.reason}: {one.ready.message}")
            for pod, view in one.pods:
                if view.phase is PodPhase.RUNNING:
                    self._once(pod.name, _coarse(pod.progress), shown_as=name)
        for item in news:
            if item.event.reason == "Scaled":
                self.say(f"{item.key.name}: scaled {item.event.message}")

    def say(self, text: str) -> None:
        """Prints a line."""
        print(text, file=sys.stderr, flush=True)

    def problem(self, text: str) -> None:
        """Prints a line."""
        self.say(text)

    def begin_answer(self, question: str) -> None:
        """Nothing to make room for."""

    def answer(self, piece: str) -> None:
        """Prints a piece of the answer, without a line's end."""
        self._answered = piece or self._answered
        print(piece, end="", flush=True)

    def end_answer(self) -> None:
        """Ends the answer's line."""
        if self._answered and not self._answered.endswith("\n"):
            print(flush=True)

    def stopping(self) -> None:
        """Prints a line."""
        self.say("Stopping: running requests finish.")

    def _once(self, subject: str, text: str, shown_as: str | None = None) -> None:
        if self._told.get(subject) != text:
            self._told[subject] = text
            self.say(f"{shown_as or subject}: {text}")


class LiveScreen:
    """A table that follows, with bars for replicas that start; what is said for good scrolls away above it."""

    def __init__(self, console: Console | None = None) -> None:
        self.rates: Callable[[Key], Rate] = _no_rate
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._seen: Sequence[Seen] = ()
        self._footer = ""
        self._answering = False

    def __enter__(self) -> Self:
        self._show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hide()

    def serving(self, url: str) -> None:
        """Tells where the gateway answers."""
        self._footer = f"{url}   Ctrl-C stops"

    def step(self, seen: Sequence[Seen], news: Sequence[News]) -> None:
        """Shows the models; the next refresh draws them."""
        self._seen = seen
        for item in news:
            if item.event.reason == "Scaled":
                self.say(f"{item.key.name}: scaled {item.event.message}")

    def say(self, text: str) -> None:
        """Prints above the table. The terminal breaks lines that are too long for it: a break of ours would be copied with them."""
        self._console.print(Text(text), soft_wrap=True)

    def problem(self, text: str) -> None:
        """Prints above the table, in red."""
        self._console.print(Text(text, style="red"), soft_wrap=True)

    def begin_answer(self, question: str) -> None:
        """Takes the table away once the answer's first piece is there."""
        self._console.print(Text(f"> {question}", style="bold"))

    def answer(self, piece: str) -> None:
        """Prints a piece of the answer."""
        if piece:
            self._hide()
            self._answering = True
            self._console.print(Text(piece), end="", soft_wrap=True)

    def end_answer(self) -> None:
        """Ends the answer and shows the table again."""
        if self._answering:
            self._console.print("\n")
        self._answering = False
        self._show()

    def stopping(self) -> None:
        """Shows what a second Ctrl-C does."""
        self._footer = _STOPPING

    def _show(self) -> None:
        if self._live is None:
            self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()

    def _hide(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> RenderableType:
        parts: list[RenderableType] = [_table(self._seen, self.rates)]
        parts += [_bar(one, pod.progress) for one in self._seen for pod, view in one.pods if view.phase is PodPhase.RUNNING]
        told = (one for one in self._seen if one.ready.status != "True" or ";" in one.ready.message)
        parts += [Text(f"{one.model.metadata.name}: {one.ready.message}", style="red") for one in told if _is_problem(one)]
        return Group(*parts, Text(self._footer, style="dim"))


def _table(seen: Sequence[Seen], rates: Callable[[Key], Rate]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for title in ("MODEL", "STATE"):
        table.add_column(title, no_wrap=True)
    for title in ("REPLICAS", "REQUESTS", "IN FLIGHT", "TOKENS/S"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in seen:
        rate = rates(one.key)
        answering = sum(pod.ready for pod, _ in one.pods)
        busy = one.demand.in_flight + one.demand.queued
        cells = (f"{answering}/{one.wanted}", str(rate.requests), str(busy), f"{rate.tokens_per_second:.0f}")
        table.add_row(one.model.metadata.name, Text(one.ready.reason, style=_colour(one)), *cells)
    return table


def _bar(one: Seen, progress: Progress) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    pulse = progress.fraction is None
    grid.add_row(
        Text(one.model.metadata.name),
        Text(_DOING.get(progress.phase, progress.phase)),
        ProgressBar(total=None if pulse else 1.0, completed=progress.fraction or 0.0, width=30, pulse=pulse),
        Text(_amount(progress), style="dim"),
    )
    return grid


def _amount(progress: Progress) -> str:
    if progress.bytes_total:
        return f"{progress.bytes_done / 1e6:.0f} of {progress.bytes_total / 1e6:.0f} MB"
    return "" if progress.fraction is None else f"{progress.fraction:.0%}"


def _coarse(progress: Progress) -> str:
    """Returns the progress in quarters, so that a log stays short."""
    doing = _DOING.get(progress.phase, progress.phase)
    return doing if not progress.fraction else f"{doing}, {int(progress.fraction / _PLAIN_STEP) * _PLAIN_STEP:.0%}"


def _is_problem(one: Seen) -> bool:
    return any(view.problem is not None for _, view in one.pods) or one.ready.reason == "NameConflict"


def _colour(one: Seen) -> str:
    if one.ready.status == "True":
        return "green"
    return "red" if _is_problem(one) else "yellow"
