"""A run that is asked to stop after a step, as by a signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alignkit import ranks
from alignkit.errors import Interrupted


@contextmanager
def stop_after(step: int | None) -> Iterator[None]:
    """SIGTERM reaches the last of the processes in so many steps; the block ends there. None: it is not asked to."""
    if step is None:
        yield
        return
    from alignkit.training.stopping import StopWhenAsked

    before = StopWhenAsked.on_step_end

    def asked(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step and ranks.rank() == ranks.world() - 1:
            self.stop.signum = signal.SIGTERM
        return before(self, args, state, control, **kwargs)

    StopWhenAsked.on_step_end = asked  # type: ignore[method-assign]
    try:
        yield
    except Interrupted:
        return
    finally:
        StopWhenAsked.on_step_end = before  # type: ignore[method-assign]
    raise AssertionError("the run was not stopped")
