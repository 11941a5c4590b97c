"""The user's own function: `module:function` or `file.py:function`.

It is called as TRL's trainers call theirs, so that one function serves both: with keywords `prompts` and `completions`
(lists; of a conversation its messages, and the answer as a list of one message), `reference` (the checkable answers)
and each column of the rows as a list. It returns a list of numbers.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alignkit.errors import Fault, RequestError
from alignkit.rewards.judged import Judged, Reward
from alignkit.rewards.kinds.kind import Kind, Making
from alignkit.rewards.recipe import RewardSource, module_file


class FunctionReward(Reward):
    """Calls a function."""

    usage = (
        "It is called with keywords, prompts, completions, reference and the names of the rows' columns, each a list "
        "with a place for every answer, and returns a list of numbers: def score(prompts, completions, **columns)."
    )

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function

    def score(self, rows: Sequence[Judged]) -> list[float | None]:
        columns = {name: [row.columns.get(name) for row in rows] for row in rows for name in row.columns}
        columns |= {
            "prompts": [row.prompt for row in rows],
            "completions": [
                row.answer if isinstance(row.prompt, str) else [{"role": "assistant", "content": row.answer}]
                for row in rows
            ],
            "reference": [row.reference for row in rows],
        }
        found = self.function(**columns)
        if isinstance(found, str) or not hasattr(found, "__iter__"):
            raise TypeError(f"the function gave {type(found).__name__}, and must give a list of numbers")
        return list(found)


def _make(source: RewardSource, making: Making) -> Reward:
    assert source.function is not None
    module, name = source.function
    try:
        function = getattr(_imported(module), name)
    except Exception as error:  # the user's module may raise anything while it is imported
        what = f"{source.name} could not be imported: {type(error).__name__}: {error}"
        raise RequestError(Fault(where=f"{making.where}.name", what=what, instead="Correct the module.")) from error
    if not callable(function):
        raise RequestError(Fault(where=f"{making.where}.name", what=f"{source.name} is no function"))
    return FunctionReward(source.name, function)


def _imported(module: str) -> Any:
    """The module; what lies in the working directory comes first, whichever way alignkit was started."""
    file = module_file(module)
    if module.endswith(".py"):
        assert file is not None
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(file.stem, found)  # dataclasses and pickles look their module up there
        spec.loader.exec_module(found)
        return found
    here = str(Path.cwd())
    if file is not None and file.resolve().is_relative_to(here) and here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(module)


def _check(source: RewardSource, where: str) -> Iterator[Fault]:
    assert source.function is not None
    if module_file(source.function[0]) is None:
        yield Fault(
            where=f"{where}.name",
            what=f"there is no module {source.function[0]} here, and none is installed",
            instead="Write MODULE:FUNCTION, or path/to/file.py:FUNCTION.",
        )


FUNCTION = Kind(name="function", about="what MODULE:FUNCTION returns (--allow-code)", make=_make, check=_check)
