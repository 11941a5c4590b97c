"""From the `stage:` line of a recipe to the stage's dataclass. A folder under alignkit/stages is a stage."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from alignkit.config.recipe import StageRecipe
from alignkit.errors import Fault, RequestError


def stage_names() -> list[str]:
    """Names of all stages: folders with a recipe.py, underscores as dashes."""
    folder = Path(__file__).resolve().parent.parent / "stages"
    return sorted(file.parent.name.replace("_", "-") for file in folder.glob("*/recipe.py"))


def recipe_class(stage: object, where: str) -> type[StageRecipe]:
    """The dataclass `Recipe` of a stage. Raises RequestError, placed at `where`, when there is no such stage."""
    known = stage_names()
    name = str(stage).replace("_", "-")
    if stage is None:
        raise RequestError(
            Fault(
                where=where, what="has no `stage:` line, so it is no recipe", instead=f"Stages are: {', '.join(known)}."
            )
        )
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise RequestError(
            Fault(where=where, what=f"there is no stage {stage}", instead=f"{hint}Stages are: {', '.join(known)}.")
        )
    found: type[StageRecipe] = import_module(f"alignkit.stages.{name.replace('-', '_')}.recipe").Recipe
    return found
