"""Stop when asked: Ctrl-C, SIGTERM and SIGHUP end a run in good order, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from alignkit.console import log
from alignkit.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Remembers the signal that asked the run to stop.

    While ``finishing_step`` is true (the training loop), the first signal only sets ``signum``: the loop ends the step
    it is in, saves a checkpoint and raises. At any other time (loading, evaluating) there is nothing to finish
    and ``Interrupted`` is raised on the spot. A second signal always raises on the spot.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.finishing_step = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        name = signal.Signals(signum).name
        if self.finishing_step and self.signum is None:
            self.signum = signum
            log.say(f"{name}: finishing this step and saving a checkpoint; once more stops at once.")
            return
        self.signum = signum
        raise Interrupted(signum, f"Stopped by {name}. The same command goes on from the last checkpoint.")

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handle the signals while the context lasts. Outside the main thread Python allows no handlers: a no-op."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {s: signal.getsignal(s) for s in SIGNALS}
        # `nohup alignkit …` ignores SIGHUP: that wish stands.
        mine = [s for s in SIGNALS if not (s == signal.SIGHUP and previous[s] == signal.SIG_IGN)]
        for s in mine:
            signal.signal(s, self._handle)
        try:
            yield self
        finally:
            for s in mine:
                signal.signal(s, previous[s])
