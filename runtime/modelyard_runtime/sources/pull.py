"""`modelyard-runtime pull`: weights into the cache, ahead of time, as images are built."""

from __future__ import annotations

import sys

from modelyard_runtime import logs
from modelyard_runtime.progress import Phase, Step
from modelyard_runtime.serving.loading import fetch
from modelyard_runtime.settings import PullSettings


def pull(settings: PullSettings) -> None:
    """Fetches and converts a source, and prints its folder. Raises RuntimeFailed."""
    logs.configure(settings.log_level)
    print(fetch(settings.source, settings, _Ticker()))


class _Ticker:
    """Prints each phase once, and every tenth of it, to stderr."""

    def __init__(self) -> None:
        self._shown: tuple[Phase, int] | None = None

    def __call__(self, step: Step) -> None:
        """Notes a step."""
        tenths = int((step.fraction or 0.0) * 10)
        if self._shown != (step.phase, tenths):
            self._shown = (step.phase, tenths)
            share = "" if step.fraction is None else f" {tenths * 10} %"
            print(f"{step.phase}{share}", file=sys.stderr, flush=True)
