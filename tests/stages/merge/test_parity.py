"""What mergekit 0.1.5 made of small tensors, by black-box runs: ours is the same wherever the definitions are.

mergekit_outputs.json holds the inputs, each configuration as it was given to mergekit, and what came out in float32.
The configurations go through our reader of mergekit's files, so that its names and defaults are held to it as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alignkit.errors import RequestError
from alignkit.stages.merge.mergekit import read_mergekit
from alignkit.stages.merge.methods import METHODS
from tests.stages.merge.driver import merge

STORED = json.loads(Path(__file__).with_name("mergekit_outputs.json").read_text())
COLUMNS = "nuslerp_row"
"""The one configuration that has no counterpart here."""


def tensor(rows: list[list[float]], kind: str) -> NDArray:
    found = np.array(rows, np.float32)
    return found[0] if kind == "vector" else found


def read(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """mergekit's configuration in our words, its models as hub names so that no file need stand there."""
    file = directory / "merge.yml"
    file.write_text(json.dumps(config))
    return read_mergekit(file)


def values_of(said: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the method: a model's own, else the merge's, else the method's."""
    found: dict[str, Any] = {}
    for name, parameter in METHODS[said["method"]].parameters.items():
        common = said.get(name, parameter.default)
        found[name] = [one.get(name, common) for one in said["models"]] if parameter.per_model else common
    return found


@pytest.mark.parametrize("kind", ["matrix", "vector"])
@pytest.mark.parametrize("stored", STORED["merges"], ids=lambda one: one["name"])
def test_mergekit_made_the_same(stored: dict[str, Any], kind: str, tmp_path: Path) -> None:
    if stored["name"] == COLUMNS:
        with pytest.raises(RequestError, match="nuslerp_row_wise"):
            read(stored["config"], tmp_path)
        return
    said = read(stored["config"], tmp_path)
    inputs = {name: tensor(kinds[kind], kind) for name, kinds in STORED["inputs"].items()}
    models = [inputs[one["name"]] for one in said["models"]]
    base = inputs[said["base"]["name"]] if "base" in said else None
    found = merge(said["method"], models, base, chunk=10, **values_of(said))
    np.testing.assert_allclose(found, tensor(stored[kind], kind), atol=5e-7, rtol=0)


def test_what_is_stored_covers_the_methods() -> None:
    assert {one["config"]["merge_method"] for one in STORED["merges"]} == set(METHODS) - {"della", "della_linear"}
