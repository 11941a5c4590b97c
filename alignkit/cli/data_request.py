"""What a person asks of `alignkit data`: the request as a recipe, the tokenizer it names, where the answer goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alignkit.errors import Fault, RequestError

if TYPE_CHECKING:
    from alignkit.config.sections import Data
    from alignkit.data.eyes.recipe import LookRecipe

R = TypeVar("R", bound="LookRecipe")


def composed(data: str, words: list[str], recipes: list[Path], schema: type[R]) -> R:
    """The request, typed. Raises RequestError with every fault that can be known without reading rows."""
    from alignkit.config.compose import compose
    from alignkit.config.provenance import BUILT_IN
    from alignkit.config.search import shipped_recipes
    from alignkit.models import check as model_check
    from alignkit.models.context import context_length
    from alignkit.models.locating import locate

    file = shipped_recipes() / "command" / "data.yaml"
    named = data.removeprefix("data=")
    if named == "-":
        named = spooled_stdin()
    made = compose(str(file), [f"data={named}", *words], recipes=recipes, schema=schema)
    recipe = made.recipe
    assert isinstance(recipe, schema)
    faults = list(made.faults)
    chosen = made.origins["data.max_length"] != BUILT_IN
    if recipe.model is not None and recipe.model.name:
        from alignkit.config.sections import Quantization

        longest = recipe.data.max_length if chosen else None
        faults += model_check.check(recipe.model, Quantization(), max_length=longest)
    faults += map(made.placed, _data_faults(recipe.data))
    if faults:
        raise RequestError(faults)
    if recipe.model is not None and not chosen:
        context = context_length(locate(recipe.model))
        recipe.data.max_length = min(recipe.data.max_length, context or recipe.data.max_length)
    return recipe


def _data_faults(section: Data) -> Iterator[Fault]:
    """Sources that are not there, a template of no known name. No row is read."""
    from alignkit.data.reading.places import locate
    from alignkit.data.templates.catalogue import template_fault

    for number, source in enumerate(section.parts()):
        try:
            if source.name:
                locate(source.name, f"data.sources.{number}.name" if section.sources else "data.name")
        except RequestError as error:
            yield from error.faults
    fault = template_fault(section.template) if section.template is not None else None
    if fault is not None:
        yield fault


def spooled_stdin() -> str:
    """Rows from stdin as a file, so that they have line numbers and can be read by several processes."""
    import atexit
    import shutil
    import tempfile

    from alignkit.runs.spool import spool_stdin

    folder = Path(tempfile.mkdtemp(prefix="alignkit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(spool_stdin(folder, "DATA").rename(folder / "stdin.jsonl"))


def tokenizer_of(recipe: LookRecipe) -> Any:
    """The tokenizer that the rows go through, or None."""
    if recipe.model is None:
        return None
    from alignkit.console import log
    from alignkit.data.templates.install import install
    from alignkit.models.loading import load_tokenizer

    tokenizer = load_tokenizer(recipe.model)
    if recipe.data.template is None:
        return tokenizer
    installed = install(tokenizer, recipe.data.template)
    log.say(installed.said)
    return installed.tokenizer


def heading(data: str, recipe: LookRecipe) -> str:
    name = "stdin" if data == "-" else data.removeprefix("data=")
    return f"{name}, in tokens of {recipe.model.name}" if recipe.model is not None else f"{name}, as text (no model=…)"


def quietly() -> Any:
    """Whatever libraries print on the way goes to stderr or nowhere: stdout is for the answer."""
    from contextlib import ExitStack

    from alignkit.console.libraries import kept_quiet
    from alignkit.console.streams import stdout_to_stderr

    stack = ExitStack()
    stack.enter_context(stdout_to_stderr())
    stack.enter_context(kept_quiet())
    return stack


def write_file(path: Path, text: str) -> None:
    """A file written in one go: a reader finds the old one or the new one."""
    import os

    try:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise RequestError(Fault(where=str(path), what=f"cannot be written: {error.strerror}")) from error
