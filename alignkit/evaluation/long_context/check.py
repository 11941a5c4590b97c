"""What is wrong with a suite, told before a model is read. No torch behind it."""

from __future__ import annotations

from collections.abc import Iterator

from alignkit.data import check as data_check
from alignkit.errors import Fault
from alignkit.evaluation.long_context.recipe import Suite


def data_faults(suite: Suite, where: str = "suite") -> Iterator[Fault]:
    """Every fault that the files of its text and of its short rows show."""
    for key, section in suite.sections().items():
        yield from data_check.check(section, where=f"{where}.{key}")
