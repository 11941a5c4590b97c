"""How a recipe names a reward. No torch in here."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from alignkit.config.sections import Model
from alignkit.errors import Fault

_FUNCTION = re.compile(r"(?!hub:)(?P<module>[\w.~/-]+):(?P<function>[A-Za-z_]\w*)")


@dataclass(kw_only=True)
class RewardSource:
    """One reward. Several are added up, each times its weight. Which options it reads is the reward's to say."""

    name: str
    """json, json-schema, exact, math, regex, length, repetition, sentiment; model or judge (with `model`); a path or
    `hub:NAME` of a reward model; or MODULE:FUNCTION, which is code and needs --allow-code."""
    weight: float = 1.0
    """Factor of this reward in the sum; below 0 it is a penalty."""
    model: Model | None = None
    """model: a sequence classifier with one output, or an adapter that makes one; judge: a causal model that grades."""
    pattern: str | None = None
    """regex: the regular expression that is searched for."""
    schema: dict[str, Any] | str | None = None
    """json-schema: the schema (draft 2020-12, the keywords of alignkit/rewards/schema.py), or a file that holds it."""
    target: Annotated[int, Ge(1)] | None = None
    """length: the best length; null: the length itself is the reward (a negative weight wants short answers)."""
    unit: Literal["words", "characters"] | None = None
    """length: what is counted; null: words."""
    ngram: Annotated[int, Ge(1)] | None = None
    """repetition: words in a row that count as repeated; null: 3."""
    column: str | None = None
    """exact, math: the column of the rows that holds the right answer; null: the row's checkable answer."""
    template: str | None = None
    """judge: the question put to it, with {prompt}, {answer}, {reference} and the row's columns in braces; null: a
    question for a grade from 1 to 9."""

    def __post_init__(self) -> None:
        if self.model is None and self.function is None and _names_a_place(self.name):
            self.model, self.name = Model(name=self.name), "model"

    @property
    def said(self) -> str:
        """What a table or a line calls it: `json`, `model ./reward`."""
        return self.name if self.model is None else f"{self.name} {self.model.name}"

    @property
    def function(self) -> tuple[str, str] | None:
        """The module (or file) and the function that it names; None where it names no code."""
        found = _FUNCTION.fullmatch(self.name)
        return (found["module"], found["function"]) if found else None

    def files(self) -> dict[str, Path]:
        """Files whose contents decide what the reward says, each by what it is called in a run's key."""
        if isinstance(self.schema, str):
            return {"schema": Path(self.schema).expanduser()}
        if self.function is None:
            return {}
        file = module_file(self.function[0])
        if file is None:
            return {}
        depth = self.function[0].count(".") - (file.name != "__init__.py")
        if depth < 0 or self.function[0].endswith(".py"):
            return {file.name: file}
        # Of a package every file counts: the function may call what stands in another.
        package = file.parents[depth]
        return {str(one.relative_to(package)): one for one in sorted(package.rglob("*.py"))}


def files_of(sources: Sequence[RewardSource], where: str) -> dict[str, list[Path]]:
    """`StageRecipe.files_read` for a list of rewards that stands at `where`."""
    return {
        f"{where}[{at}].{name}": [file]
        for at, one in enumerate(sources)
        for name, file in one.files().items()
        if file.is_file()
    }


def code_fault(source: RewardSource, where: str) -> Fault:
    """The fault of a reward that is code, where nobody at the command line said that it may run."""
    return Fault(
        where=f"{where}.name",
        what=f"{source.name} is Python code that would be run",
        instead="Add --allow-code if you trust it.",
    )


def module_file(module: str) -> Path | None:
    """The file of `package.module` or of `path/to/file.py`, found without running it; None where there is none.

    What lies in the working directory comes before what is installed.
    """
    if module.endswith(".py"):
        file = Path(module).expanduser()
        return file if file.is_file() else None
    here = Path(*module.split("."))
    for file in (here.with_suffix(".py"), here / "__init__.py"):
        if file.is_file():
            return file
    if "/" in module:
        return None
    try:
        # Of a submodule the parents are imported by find_spec, which would run them: only the first name is looked up.
        first, *rest = module.split(".")
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or spec.origin in ("built-in", "frozen"):
        return None
    place = Path(spec.origin)
    if not rest:
        return place
    inner = place.parent.joinpath(*rest)
    return next((file for file in (inner.with_suffix(".py"), inner / "__init__.py") if file.is_file()), None)


def _names_a_place(name: str) -> bool:
    return name.startswith((".", "~", "hub:")) or "/" in name
