"""The processes of a run: which one this is, and what they say to each other.

A launcher (ours, torchrun, accelerate) starts several processes with RANK, WORLD_SIZE and
MASTER_ADDR in their environment. Rank 0 owns the run directory, the terminal and the data; the others follow it. In one
process every function here is free: nothing imports torch.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from alignkit.errors import RunError

T = TypeVar("T")

WAITING = timedelta(days=7)
"""Rank 0 prepares data and scores models while the others wait; a process that died is seen by the launcher."""

_parted = False
"""Rank 0 goes on alone: what it calls then is one process's work."""
_group: Any = None
"""gloo: what the processes say to each other passes through the machine's memory, whatever device they train on."""


def world() -> int:
    """How many processes the run has."""
    return 1 if _parted else _number("WORLD_SIZE", 1)


def rank() -> int:
    """Which of them this is, from 0."""
    return _number("RANK", 0) if _number("WORLD_SIZE", 1) > 1 else 0


def local_world() -> int:
    """How many of them run on this machine."""
    return _number("LOCAL_WORLD_SIZE", world()) if world() > 1 else 1


def is_first() -> bool:
    """Whether this process writes, prints and prepares."""
    return rank() == 0


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else otherwise


def meet(*, on_cpu: bool = False) -> None:
    """Open the connection between the processes, once. `on_cpu`: also tensors of the training pass over gloo."""
    global _group
    if world() == 1 or _group is not None:
        return
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available() and not on_cpu
    if cuda:
        torch.cuda.set_device(_number("LOCAL_RANK", 0))
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=WAITING)
        atexit.register(dist.destroy_process_group)
    _group = dist.new_group(backend="gloo", timeout=WAITING)


def part() -> None:
    """The work of all is done: each goes on as if it were alone, until they reunite."""
    global _parted
    wait()
    _parted = True


class Left(RunError):
    """Another process of the run ended; what it said is the reason."""


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo: the connection was closed
        raise Left(f"Process {rank()} of {world()} lost the others: one of them ended before. ({error})") from error


def reunite() -> None:
    """Rank 0's work alone is done: this is one process of several again, which may meet for the next run."""
    global _parted
    _parted = False


def from_first(value: Callable[[], T]) -> T:
    """What rank 0 finds, in every process. It is plain data: it is pickled. Nobody else calls `value`."""
    if world() == 1:
        return value()
    import torch.distributed as dist

    found: list[Any] = [value() if is_first() else None]
    with _together():
        dist.broadcast_object_list(found, src=0, group=_group)
    result: T = found[0]
    return result


def gathered(value: T) -> list[T]:
    """What every process has, by rank, in every process."""
    if world() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * world()
    with _together():
        dist.all_gather_object(found, value, group=_group)
    return found


def summed(values: Sequence[float]) -> list[float]:
    """The sums over the processes, in float64."""
    if world() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    total = torch.tensor(values, dtype=torch.float64)
    with _together():
        dist.all_reduce(total, group=_group)
    return [float(value) for value in total]


def wait() -> None:
    """Go on when every process is here."""
    if world() > 1:
        import torch.distributed as dist

        with _together():
            dist.barrier(group=_group)


@contextmanager
def first_then_others() -> Iterator[None]:
    """Rank 0 runs the block; the others run it when rank 0 is done with it, and find what it left on the disk."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()
    wait()
