"""The extract-lora stage: two models in, the adapter between them out, and how much of the change it holds."""

from __future__ import annotations

from typing import Any

from alignkit.console import log
from alignkit.console.progress import counting
from alignkit.errors import RequestError
from alignkit.models.cards import Card, license_of, write_card
from alignkit.models.locating import Source, locate
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.runs.outcome import Outcome
from alignkit.stages.extract_lora.check import opened
from alignkit.stages.extract_lora.difference import Pair
from alignkit.stages.extract_lora.extraction import Extraction, extract
from alignkit.stages.extract_lora.modules import modules_of
from alignkit.stages.extract_lora.recipe import Recipe
from alignkit.stages.merge.adapter_writing import write_adapter


def run(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Run the stage in its directory; called by the journey."""
    pair, faults = opened(recipe)
    if pair is None or faults:
        raise RequestError(faults)
    modules = modules_of(pair.base.config, pair.base.tensors)
    log.say(f"extracting an adapter of rank {recipe.extract.rank} at most from {len(modules.linear)} linear layers")
    total = sum(pair.base.tensors[name].nbytes for name in modules.linear if name in pair.names)
    with counting("extracting", total, in_bytes=True) as progress:
        found = extract(pair, recipe.extract, modules, seed=recipe.seed, progress=progress)
    figures = found.figures()
    _tell(found, figures, recipe)
    base = locate(recipe.extract.base)
    target = write_adapter(found.written, run.model_path, base, beside=_tokenizers(recipe, pair))
    write_card(target, _card(recipe, base, figures))
    digests = {f"{target.name}/{file.name}": file_digest(file) for file in sorted(target.iterdir()) if file.is_file()}
    metrics: dict[str, Any] = {
        "extract": figures,
        "headline": {"name": "energy_kept", "after": figures["energy_kept"]},
    }
    return Outcome(result=target, metrics=metrics, resolved={"rank": figures["rank"]["largest"]}, digests=digests)


def _tokenizers(recipe: Recipe, pair: Pair) -> list[Any]:
    """The fine-tune's tokenizer, which may have more tokens, before the base's."""
    places = [locate(recipe.model).path, pair.tuned.path, pair.base.path]
    return [place for place in places if place is not None and place.is_dir()]


def _tell(found: Extraction, figures: dict[str, Any], recipe: Recipe) -> None:
    lowest = figures["lowest_energy_kept"]
    log.say(
        f"{figures['energy_kept']:.1%} of the change of {figures['modules']} matrices is kept "
        f"(least: {lowest['share']:.1%} of {lowest['module']})"
    )
    if found.saved:
        log.say(f"saved whole: {_listed(found.saved)}")
    if found.rows:
        log.say(f"{found.rows} rows of the vocabulary are saved as they are")
    if found.left:
        log.warn(f"these changed and are left as the base has them: {_listed(found.left)}")
    share = recipe.extract.energy
    if share is not None and lowest["share"] < share:
        short = sum(part < share * whole for whole, part in found.energy.values())
        log.warn(f"{short} matrices keep less than {share:.0%} at extract.rank={recipe.extract.rank}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _card(recipe: Recipe, base: Source, figures: dict[str, Any]) -> Card:
    rank = figures["rank"]
    lines = [
        f"| energy of the change kept | {figures['energy_kept']:.1%} |",
        f"| least kept of one matrix | {figures['lowest_energy_kept']['share']:.1%} |",
        f"| matrices | {figures['modules']} |",
        f"| ranks | {rank['smallest']} to {rank['largest']}, on average {rank['mean']:.1f} |",
        f"| tensors saved whole | {len(figures['saved_whole'])} |",
        f"| rows of the vocabulary | {figures['token_rows']} |",
        f"| changed tensors left out | {len(figures['left_out'])} |",
    ]
    table = "\n".join(["| | |", "| --- | ---: |", *lines])
    return Card(
        title="Adapter extracted from a fine-tune",
        summary="The difference between a fine-tuned model and its base, each matrix at a low rank by randomised SVD; "
        "nothing was trained.",
        adapter=True,
        base_model=base.hub_name,
        license=license_of(locate(recipe.model)) or license_of(base),
        tags=["lora", "extract-lora"],
        sections=[("What it holds", table)],
    )
