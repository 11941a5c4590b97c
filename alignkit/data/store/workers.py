"""Parts go to several processes and come back packed, in order; memory stays flat however many there are.

A worker is forked where that is possible (nothing is imported anew), gets parts through a pipe of its own and leaves
its results in files, so that neither side ever waits for the other to read. When the main process ends, however it
ends, the pipes close and the workers end too.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Generator, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from alignkit.data.reading.parts import Part
from alignkit.data.store.pipeline import Job, Packed, Pipeline
from alignkit.errors import RequestError, RunError

AHEAD = 2
"""Parts that wait at each worker, the one it works on included."""


def run(parts: Iterator[Part], job: Job, processes: int, scratch: Path) -> Generator[Packed, None, None]:
    """The packed parts, in order. ``scratch``: a directory for results on their way.

    Raises what a worker raised, and RunError when one was killed. Ends its workers whenever it is left.
    """
    if processes < 2:
        pipeline = Pipeline(job)
        yield from map(pipeline.run, parts)
        return
    crew = _Crew(job, processes, scratch)
    try:
        yield from crew.run(parts)
    finally:
        crew.end()


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Crew:
    def __init__(self, job: Job, count: int, scratch: Path) -> None:
        self.scratch = scratch
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        self.busy: dict[Connection, int] = {}
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        forked = context.get_start_method() == "fork"
        # What a pipeline finds out about its tokenizer is found out once: a fork inherits it.
        work = Pipeline(job) if forked else job
        for _ in range(count):
            ours, theirs = context.Pipe()
            self.pipes.append(ours)
            inherited = list(self.pipes) if forked else []
            process = context.Process(target=_serve, args=(theirs, work, scratch, inherited), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of forks beside threads: ours take no lock that another thread could hold.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            self.processes.append(process)
            self.busy[ours] = 0

    def run(self, parts: Iterator[Part]) -> Iterator[Packed]:
        given = taken = 0
        finished: set[int] = set()
        more = True
        while True:
            # A bound on what may lie finished behind a slow part: results wait on the disk.
            while more and given - taken < 2 * AHEAD * len(self.pipes) and (pipe := self._free()) is not None:
                part = next(parts, None)
                if part is None:
                    more = False
                else:
                    self._send(pipe, given, part)
                    given += 1
            if taken in finished:
                finished.discard(taken)
                yield self._result(taken)
                taken += 1
            elif taken < given:
                for ready in wait(self.pipes):
                    assert isinstance(ready, Connection)
                    finished.add(self._receive(ready))
            else:
                return

    def end(self) -> None:
        """Close the pipes, and end the workers, at once where they are at work still."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def _free(self) -> Connection | None:
        """The worker with the least to do, if one may have more."""
        pipe = min(self.pipes, key=self.busy.__getitem__)
        return pipe if self.busy[pipe] < AHEAD else None

    def _send(self, pipe: Connection, number: int, part: Part) -> None:
        try:
            pipe.send((number, part))
        except OSError as error:
            raise self._died(pipe) from error
        self.busy[pipe] += 1

    def _receive(self, pipe: Connection) -> int:
        """The number of a part that a worker has finished."""
        try:
            number = int(pipe.recv())
        except (EOFError, OSError) as error:
            raise self._died(pipe) from error
        self.busy[pipe] -= 1
        return number

    def _result(self, number: int) -> Packed:
        path = self.scratch / f"part-{number}"
        with path.open("rb") as file:
            found = pickle.load(file)
        path.unlink()
        if isinstance(found, Packed):
            return found
        assert isinstance(found, BaseException)
        raise found

    def _died(self, pipe: Connection) -> RunError:
        process = self.processes[self.pipes.index(pipe)]
        process.join(1)
        how = f"by signal {-process.exitcode}" if (process.exitcode or 0) < 0 else f"with code {process.exitcode}"
        return RunError(
            f"A process that reads the data ended {how}; the machine may be out of memory. "
            "Start again with fewer: data.processes=1."
        )


def _serve(pipe: Connection, work: Pipeline | Job, scratch: Path, inherited: list[Connection]) -> None:
    """A worker's life: until the pipe closes."""
    for other in inherited:  # a pipe that a brother holds open would never be seen to close
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the main process ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the library's threads did not come over the fork
    with suppress(EOFError, OSError):
        pipeline = work if isinstance(work, Pipeline) else Pipeline(work)
        while True:
            number, part = pipe.recv()
            with (scratch / f"part-{number}").open("wb") as file:
                pickle.dump(_outcome(pipeline, part), file, pickle.HIGHEST_PROTOCOL)
            pipe.send(number)


def _outcome(pipeline: Pipeline, part: Part) -> Packed | BaseException:
    """What comes of a part; an error goes to the main process, which raises it when the part's turn has come."""
    try:
        return pipeline.run(part)
    except RequestError as error:
        return Packed(fault=error.faults)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # it cannot travel: its text can
            return RuntimeError("".join(traceback.format_exception(error)))
        return error
