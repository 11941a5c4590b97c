"""The README's table of stages and engines is what the recipes say."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from alignkit.config.launching import SEVERAL

ROOT = Path(__file__).resolve().parents[2]


def test_every_stage_stands_in_the_table_with_its_engines() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [header] = re.findall(r"^\| stage \|(.*)\|$", text, re.MULTILINE)
    engines = [word.strip() for word in header.split("|")]
    assert tuple(engines) == SEVERAL
    told = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(engines) + 1 and set(cells[1:]) <= {"yes", ""}:
            told[cells[0]] = tuple(engine for engine, cell in zip(engines, cells[1:], strict=True) if cell)
    found = {}
    for file in (ROOT / "alignkit" / "stages").glob("*/recipe.py"):
        recipe = import_module(f"alignkit.stages.{file.parent.name}.recipe").Recipe
        found[file.parent.name.replace("_", "-")] = recipe.engines
    assert told == found
