"""Runs jobs: inputs read, merged and written chunk by chunk by a few threads, in a memory that no model's size changes.

Threads take chunks, not tensors, in the order of the jobs: one large embedding occupies them all, and files are
written nearly from front to back. What a pass over a tensor learns is gathered in the order of its chunks, so no sum
depends on who was faster, and the cuts depend on the tensor alone: the bytes are the same for any number of threads.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from alignkit.errors import Interrupted
from alignkit.tensors.jobs import Folding, Job, Merger, Source, Values, Verbatim
from alignkit.tensors.numbers import FLOATS, WIDTHS, fits
from alignkit.tensors.output import Output

__all__ = ["CHUNK", "Folding", "Job", "Merger", "Source", "Values", "Verbatim", "run"]

CHUNK = 1 << 18
"""Elements of a chunk: 1 MB as float32, so that the arrays of one step stay in the second-level cache."""

MEMORY = 192 << 20
"""Bytes that the threads' chunks may take together; fewer threads work where many models are merged."""

WORKSPACE = 8
"""Arrays of a chunk's size that one step of a merger may need besides its inputs."""

AHEAD = 2
"""Chunks for each thread that may be on their way in one pass, so that parts out of order do not pile up."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    jobs: Sequence[Job],
    output: Output,
    *,
    threads: int | None = None,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Do all jobs that ``output`` does not have yet. ``output.nonfinite`` then names results with NaN or infinity.

    ``threads``: as many as there are processors by default, and never more than MEMORY has room for. ``chunk``:
    elements; another number may give other bytes (sums in another order), so it belongs to the plan. ``progress`` is
    called with the number of bytes of the output that were just finished, at first with those of earlier runs; from
    any thread, one call at a time.

    Raises:
        ValueError: a job does not fit its output or its inputs.
        RunError: a file could not be read or written.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; what is finished is kept, a second signal acts at once.
    """
    for job in jobs:
        _check(job, output)
    todo = [job for job in jobs if job.name not in output.done]
    if progress is not None and len(todo) < len(jobs):
        progress(sum(output.specs[job.name].nbytes for job in jobs if job.name in output.done))
    widest = max((len(job.inputs) + (job.base is not None) for job in todo), default=1)
    room = max(1, MEMORY // (4 * chunk * (widest + WORKSPACE)))
    workers = max(1, min(threads or _processors(), room))
    _keep_freed_memory()
    _Run(todo, output, workers, chunk, progress).work()


class _Tensor:
    """One job under way: which pass it is in, which chunks were handed out, which have come back."""

    def __init__(self, job: Job, chunk: int) -> None:
        self.job = job
        self.count = math.prod(job.shape)
        self.merger = job.merger() if job.merger is not None else None
        self.scans = self.merger.scans if self.merger is not None else 0
        self.folds = self.merger.fold if isinstance(self.merger, Folding) else None
        row = job.shape[-1] if job.shape else 1
        self.step = max(1, chunk // row) * row if self.merger is not None and self.merger.rows and row else chunk
        self.chunks = -(-self.count // self.step)
        self.number = 0  # of the pass; that numbered `scans` writes
        self.issued = 0
        self.taken = 0  # chunks of this pass whose parts were folded or kept, or that were written
        self.waiting: dict[int, Any] = {}  # parts that came before their turn
        self.parts: list[Any] = []
        self.folding = False  # one thread is at it
        self.finite = True

    def bounds(self, number: int) -> tuple[int, int]:
        return number * self.step, min(self.count, (number + 1) * self.step)


class _Run:
    def __init__(
        self, jobs: list[Job], output: Output, threads: int, chunk: int, progress: Callable[[int], None] | None
    ) -> None:
        self.left = jobs[::-1]  # the next one is at the end
        self.output, self.threads, self.chunk, self.progress = output, threads, chunk, progress
        self.active: list[_Tensor] = []
        self.changed = threading.Condition()
        self.failure: BaseException | None = None
        self.signum: int | None = None

    def work(self) -> None:
        """Start the threads, wait for them, and tell what stopped them."""
        threads = [threading.Thread(target=self._worker, name=f"merge-{n}") for n in range(self.threads)]
        with self._listening():
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            except BaseException as error:  # a second signal, as an exception: nobody may write into closed files
                self._fail(error)
                for thread in threads:
                    if thread.is_alive():
                        thread.join()
                raise
        if self.failure is not None:
            raise self.failure
        if self.signum is not None:
            name = signal.Signals(self.signum).name
            raise Interrupted(self.signum, f"Stopped by {name}. The same command goes on with the tensor it was at.")

    def _worker(self) -> None:
        try:
            with np.errstate(all="ignore"):  # what overflows is found by `fits`
                while (task := self._take()) is not None:
                    self._do(*task)
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self.changed:
            self.failure = self.failure or error
            self.changed.notify_all()

    def _take(self) -> tuple[_Tensor, int] | None:
        """The next chunk to work on; None when nothing is left to do or the run must stop."""
        with self.changed:
            while True:
                if self.failure is not None or self.signum is not None:
                    self.changed.notify_all()
                    return None
                for tensor in self.active:
                    if tensor.issued < min(tensor.chunks, tensor.taken + AHEAD * self.threads):
                        tensor.issued += 1
                        return tensor, tensor.issued - 1
                if self.left and len(self.active) <= self.threads:
                    self._open(self.left.pop())
                elif not self.active:
                    return None
                else:
                    self.changed.wait()

    def _open(self, job: Job) -> None:
        tensor = _Tensor(job, self.chunk)
        if tensor.count:
            self.active.append(tensor)
        else:
            self.output.complete(job.name)

    def _do(self, tensor: _Tensor, number: int) -> None:
        start, stop = tensor.bounds(number)
        job, merger = tensor.job, tensor.merger
        if merger is None:
            self._written(tensor, stop - start, self._copy(job, start, stop))
            return
        chunks = [source.read(name, start, stop) for source, name in job.inputs]
        base = job.base[0].read(job.base[1], start, stop) if job.base is not None else None
        if tensor.number < tensor.scans:
            self._scanned(tensor, number, merger.scan(tensor.number, start, chunks, base))
            return
        values = merger.combine(start, chunks, base)
        if values.shape != (stop - start,) or values.dtype != np.float32:
            raise ValueError(f"the merger of {job.name} gave {values.dtype} {values.shape} for {stop - start} elements")
        self.output.write(job.name, start, values)
        self._written(tensor, stop - start, fits(values, job.dtype))

    def _copy(self, job: Job, start: int, stop: int) -> bool:
        """Write a chunk of the first input as it is; whether it is finite, as far as it was looked at."""
        source, name = job.inputs[0]
        if isinstance(source, Verbatim) and source.dtype(name) == job.dtype:
            self.output.write_raw(job.name, start, source.raw(name, start, stop))
            return True
        values = source.read(name, start, stop)
        self.output.write(job.name, start, values)
        return fits(values, job.dtype)

    def _scanned(self, tensor: _Tensor, number: int, part: Any) -> None:
        """Take a part, in its turn. One thread at a time folds what is there; the others leave theirs and go on."""
        with self.changed:
            tensor.waiting[number] = part
            if tensor.folding:
                return
            tensor.folding = True
        while True:
            with self.changed:
                ready = []
                while tensor.taken in tensor.waiting:
                    ready.append(tensor.waiting.pop(tensor.taken))
                    tensor.taken += 1
                self.changed.notify_all()
                last = tensor.taken == tensor.chunks
                if not ready:
                    tensor.folding = False
                    return
            for one in ready:
                if tensor.folds is None or not tensor.parts:
                    tensor.parts.append(one)
                else:
                    tensor.parts[0] = tensor.folds(tensor.number, tensor.parts[0], one)
            if last:
                self._next_pass(tensor)
                return

    def _next_pass(self, tensor: _Tensor) -> None:
        assert tensor.merger is not None
        tensor.merger.gather(tensor.number, tensor.parts)
        with self.changed:
            tensor.parts, tensor.folding = [], False
            tensor.number, tensor.issued, tensor.taken = tensor.number + 1, 0, 0
            self.changed.notify_all()

    def _written(self, tensor: _Tensor, count: int, finite: bool) -> None:
        with self.changed:
            tensor.taken += 1
            tensor.finite = tensor.finite and finite
            if tensor.taken == tensor.chunks:
                self.active.remove(tensor)
                self.output.complete(tensor.job.name, finite=tensor.finite)
            if self.progress is not None:
                self.progress(count * WIDTHS[tensor.job.dtype])
            self.changed.notify_all()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """The first signal lets every thread finish its chunk; the handlers from before then stand for the second."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # `nohup alignkit …` ignores SIGHUP: that wish stands.
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def stop(number: int, frame: FrameType | None) -> None:
            self.signum = number
            restore()

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            restore()


def _check(job: Job, output: Output) -> None:
    spec = output.specs.get(job.name)
    if spec is None or (spec.shape, spec.dtype) != (job.shape, job.dtype):
        raise ValueError(f"{job.name} is to be written as {job.dtype} {job.shape}, its place is for {spec}")
    if not job.inputs:
        raise ValueError(f"{job.name} has no inputs")
    sources = [*job.inputs, *([job.base] if job.base is not None else [])]
    for source, name in sources if job.merger is not None else job.inputs[:1]:
        if math.prod(source.shape(name)) != math.prod(job.shape):
            raise ValueError(f"{job.name} {job.shape} cannot be made of {name} {source.shape(name)}")
        stored = source.dtype(name) if isinstance(source, Verbatim) else "F32"
        copied = job.merger is None and stored == job.dtype
        if not copied and not {stored, job.dtype} <= set(FLOATS):
            raise ValueError(f"{job.name} as {job.dtype} cannot be computed from {name}, which is {stored}")


def _keep_freed_memory() -> None:
    """Let the C library keep the chunks' memory for the next ones.

    glibc gives large blocks back to the system at once, until it sees one freed: from then on it keeps blocks up to
    that size. Without this a merge of two models of 1.1 B spends up to half of its system time on 600,000 page faults.
    """
    np.empty(16 << 20, dtype=np.uint8)  # never touched, so it costs nothing; freed as soon as it is made


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
