"""The section `trl:` against TRL's real config classes, without importing them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignkit.config.schema import read_schema
from alignkit.config.stages import recipe_class, stage_names
from alignkit.config.trl_names import OWNED, OWNED_PREFIXES
from alignkit.config.trl_options import check, fields, typed


def said(options: dict[str, Any], config: str | None = "SFTConfig", own: dict[str, str] | None = None) -> list[str]:
    return [str(fault) for fault in check(options, config, own)]


def test_fields_are_those_of_the_class() -> None:
    """The oracle imports TRL, in a process of its own; what is read from source must be the same names."""
    code = (
        "import dataclasses, trl\n"
        "for name in ('SFTConfig', 'DPOConfig', 'GRPOConfig'):\n"
        "    print(name, *sorted(f.name for f in dataclasses.fields(getattr(trl, name)) if f.init))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        name, *names = line.split()
        assert sorted(fields(name)) == names


def test_nothing_is_imported() -> None:
    code = (
        "import sys; from alignkit.config.trl_options import check; check({'x': 1}, 'SFTConfig')\n"
        "assert not {'trl', 'transformers', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"torch_compil": True},
            "trl.torch_compil: TRL's SFTConfig has no such option. Did you mean trl.torch_compile?",
        ),
        ({"learnin_rate": 1}, "Did you mean learning_rate? That is optimizer.learning_rate here."),
        ({"learning_rate": 1}, "trl.learning_rate: alignkit sets this itself. Write optimizer.learning_rate=…"),
        ({"max_length": 1}, "Write data.max_length=…"),
        ({"num_train_epochs": 1}, "Write schedule.epochs=…"),
        ({"warmup_ratio": 1}, "Write schedule.warmup=…"),
        ({"save_steps": 1}, "Write checkpoint.every=…"),
        ({"push_to_hub": True}, "alignkit writes to a local directory; upload it with `hf upload`. Leave it out."),
        ({"hub_token": "x"}, "upload it with `hf upload`"),
        ({"output_dir": "x"}, "each run has a directory of its own under run.root. Write run.root=…"),
        ({"loss_type": "dft"}, "trl.loss_type: alignkit sets this itself. Write sft.loss=…"),
        ({"tf32": "yes"}, "trl.tf32: is yes, and must be true or false, or null"),
        ({"dataloader_num_workers": 1.5}, "trl.dataloader_num_workers: is 1.5, and must be a whole number"),
    ],
)
def test_what_is_refused(options: dict[str, Any], text: str) -> None:
    faults = said(options, own={"loss_type": "sft.loss"})
    assert len(faults) == 1
    assert text in faults[0]


def test_what_is_taken() -> None:
    options = {"torch_compile": True, "tf32": None, "optim_args": "a=1", "lr_scheduler_kwargs": {"a": 1}}
    assert said(options) == []
    assert said({"loss_type": ["sigmoid"]}, "DPOConfig") == []


def test_values_have_the_type_that_the_class_wants() -> None:
    """transformers refuses a model's configuration with 0 where it has a float."""
    options = {"router_aux_loss_coef": 0, "optim_args": "a=1", "tf32": None, "lr_scheduler_kwargs": {"a": 1}}
    found = typed(options, "SFTConfig")
    assert found == options and isinstance(found["router_aux_loss_coef"], float)
    assert typed({}, None) == {}


def test_a_stage_without_trl_takes_none() -> None:
    assert said({}, None) == []
    assert said({"x": 1}, None) == ["trl: this stage does not use TRL. Leave the section out."]


def test_our_names_exist() -> None:
    """What a person is told to write instead is a key of the recipes of stages that use TRL."""
    named = {ours for ours, _ in [*OWNED.values(), *OWNED_PREFIXES.values()] if ours}
    for stage in stage_names():
        recipe = recipe_class(stage, "test")
        # Which class it is may be decided by a value of the recipe.
        configs = getattr(recipe, "trl_configs", {}).values() or [recipe.trl_config] * (recipe.trl_config is not None)
        if configs:
            known = set(read_schema(recipe).leaves)
            assert named <= known
            assert set(recipe.trl_owned.values()) <= known
            assert set(recipe.trl_owned) <= {name for config in configs for name in fields(config)}


def test_recipes_are_dataclasses() -> None:
    assert all(dataclasses.is_dataclass(recipe_class(stage, "test")) for stage in stage_names())
