"""What can go wrong, said for the person who typed.

Every error that alignkit expects is one of these classes, and its text is a sentence: what was wrong,
where it stands, what to write instead. The exit code travels with the class, so the command line needs
no table of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong with a request.

    ``where`` is the key, file or line it stands in (``"data.max_length (from recipes/lora.yaml)"``),
    ``what`` says what was found, ``instead`` what to write.
    """

    where: str
    what: str
    instead: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        if self.instead:
            text = f"{text.rstrip('.')}. {self.instead}"
        return text


class AlignkitError(Exception):
    """A failure with a sentence for a person. ``exit_code`` is what the shell sees."""

    exit_code = 1


class RunError(AlignkitError):
    """Something failed while running (exit code 1): a lock that is held, a disk that is full."""


class RequestError(AlignkitError):
    """The request was wrong (exit code 2): recipe, data or paths. Carries every fault found, not the first."""

    exit_code = 2

    def __init__(self, faults: Sequence[Fault] | Fault) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class NumericsError(AlignkitError):
    """The numbers went wrong (exit code 3): a NaN or infinite loss or gradient."""

    exit_code = 3


class Interrupted(AlignkitError):
    """A signal asked the run to stop; its checkpoint is on disk. Exit code 128 + signal number, as shells expect."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum
