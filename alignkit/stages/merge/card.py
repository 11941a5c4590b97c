"""The model card of a merge: recipe, parents, their licences, and what the evaluation found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from alignkit.config.key_values import decisive
from alignkit.models.cards import Card, escaped, fenced, license_of, write_card
from alignkit.models.locating import Source
from alignkit.runs.directory import RunDirectory
from alignkit.runs.versions import package_versions
from alignkit.stages.merge.evaluate import comparison_markdown
from alignkit.stages.merge.methods import METHODS
from alignkit.stages.merge.recipe import MergeModel, MergeOptions, Recipe, Slice, SliceSource

NOT_KNOWN = "not known"


def licences(parents: Mapping[str, tuple[str, Sequence[Source]]]) -> dict[str, Any]:
    """Each parent's name and licence, and a warning where the licences are not one and the same.

    Args:
        parents: key of each model's section to its name, as a person wrote it, and where it lies: as it was found,
            and as it was fetched or converted, since either may be the one that states a licence.
    """
    listed: list[dict[str, str | None]] = []
    for where, (name, places) in parents.items():
        hub = next((found for source in places if (found := _origin(source))), None)
        licence = next((found for source in places if (found := license_of(source))), None)
        listed.append({"where": where, "name": hub or _short(name), "hub": hub, "licence": licence})
    stated = sorted({str(one["licence"]) for one in listed if one["licence"]})
    silent = [str(one["name"]) for one in listed if not one["licence"]]
    warnings = []
    if len(stated) > 1:
        each = ", ".join(f"{one['name']}: {one['licence'] or NOT_KNOWN}" for one in listed)
        warnings.append(f"the licences of the models differ ({each}): see what they allow together before you share it")
    elif stated and silent:
        warnings.append(f"the licence of {', '.join(silent)} is not known; the others are under {stated[0]}")
    agreed = stated[0] if len(stated) == 1 and not silent else None
    return {"parents": listed, "agreed": agreed, "warnings": warnings}


def _short(name: str) -> str:
    """What is left of a path that means nothing elsewhere: the run's or directory's name, of BASE+ADAPTER both."""
    parts = [[step for step in part.split("/") if step not in ("", ".", "..")] for part in name.split("+")]
    return "+".join(
        steps[-2] if steps[-1:] == ["model"] and len(steps) > 1 else (steps or [name])[-1] for steps in parts
    )


def _origin(source: Source) -> str | None:
    """The hub name of a model, of an adapter its base's."""
    while source.parent is not None:
        source = source.parent
    return source.hub_name


def _told(recipe: Recipe, parents: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """What the recipe says beyond its defaults, the models by names that mean something elsewhere."""
    called = {one["where"]: name for one, name in zip(parents, names, strict=True)}
    merge = dict(decisive(recipe)["merge"])
    models = []
    for place, values in enumerate(merge.pop("models")):
        models.append({"name": called[f"merge.models[{place}]"], **_beyond(values, MergeModel(name=""))})
    told: dict[str, Any] = {"method": recipe.merge.method, "models": models}
    if merge.pop("base", None) is not None:
        told["base"] = called["merge.base"]
    slices = [_beyond(one, Slice(sources=[])) for one in merge.pop("slices")]
    for one in slices:
        one["sources"] = [_beyond(source, SliceSource(model=-1, layers=[])) for source in one["sources"]]
    told |= _beyond(merge, MergeOptions())
    return {"seed": recipe.seed, "merge": {**told, "slices": slices} if slices else told}


def _beyond(values: dict[str, Any], plain: Any) -> dict[str, Any]:
    """The values that are not the section's defaults."""
    return {key: value for key, value in values.items() if value != getattr(plain, key)}


def write_merge_card(recipe: Recipe, run: RunDirectory, metrics: dict[str, Any], known: dict[str, Any]) -> None:
    """README.md beside the weights."""
    method = METHODS.get(recipe.merge.method)
    adapter = (run.model_path / "adapter_config.json").exists()
    parents = known["parents"]
    names = [str(one["name"]) for one in parents]
    table = ["| model | used as | licence |", "| --- | --- | --- |"]
    for one, name in zip(parents, names, strict=True):
        licence = escaped(str(one["licence"] or NOT_KNOWN))
        table.append(f"| {escaped(name)} | {one['where'].removeprefix('merge.')} | {licence} |")
    hubs = list(dict.fromkeys(str(one["hub"]) for one in parents if one["hub"]))
    versions = package_versions()
    nonfinite = metrics["merge"]["nonfinite"]
    warnings = [*known["warnings"], *metrics.get("warnings", [])]
    if nonfinite:
        warnings.append(f"{len(nonfinite)} tensors hold NaN or infinite values, {nonfinite[0]} among them")
    sections = [
        ("Did it work", comparison_markdown(metrics)),
        ("Models", "\n".join(table)),
        ("Warnings", "\n".join(f"- {escaped(warning)}" for warning in warnings)),
        ("Recipe", fenced(yaml.safe_dump(_told(recipe, parents, names), sort_keys=False), "yaml")),
        ("Method", f"{method.about}\n\n{method.paper}" if method is not None and not adapter else ""),
        ("Versions", ", ".join(f"{name} {versions[name]}" for name in ("alignkit", "numpy") if name in versions)),
    ]
    write_card(
        run.model_path,
        Card(
            title=f"Merge of {', '.join(map(escaped, dict.fromkeys(names)))}",
            summary=f"{'Adapters merged' if adapter else 'Merged'} by {recipe.merge.method} with alignkit, "
            "without training.",
            adapter=adapter,
            base_model=hubs,
            relation=None if adapter else "merge",
            license=known["agreed"],
            tags=["merge", recipe.merge.method],
            sections=[(heading, text) for heading, text in sections if text.strip()],
        ),
    )
