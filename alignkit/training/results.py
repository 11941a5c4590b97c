"""What a training leaves behind: the adapter or the model, merged if asked, with its card.

Where a trained adapter lies in the run directory follows `save`: adapter -> RUN/model; both -> RUN/adapter (the merged
model is in RUN/model); merged -> RUN/state/adapter, kept so that another `save` later needs no training, but no part
of the result.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alignkit.config.recipe import GradientRecipe
from alignkit.config.sections import Model
from alignkit.console import log
from alignkit.data.batching import pad
from alignkit.data.rows import Encoded
from alignkit.errors import RunError
from alignkit.evaluation.sampling import pad_id
from alignkit.models.adapters import save_adapter
from alignkit.models.drift import Reference
from alignkit.models.hardware import NAMES
from alignkit.models.loading import Loaded, load
from alignkit.models.locating import Source
from alignkit.models.merging import fold
from alignkit.models.saving import save_model
from alignkit.runs.directory import RunDirectory

DRIFT_ROWS = 16
CALIBRATION_ROWS = 64


def wanted_save(recipe: GradientRecipe) -> str:
    """`save` with auto resolved: "model" for full fine-tuning, else "adapter", "merged" or "both"."""
    if recipe.adapter.kind == "none":
        return "model"
    return "adapter" if recipe.save == "auto" else recipe.save


def adapter_places(run: RunDirectory) -> dict[str, Path]:
    """Where the adapter lies under each kind of `save`."""
    return {"adapter": run.model_path, "both": run.path / "adapter", "merged": run.path / "state" / "adapter"}


def find_adapter(run: RunDirectory) -> Path | None:
    """The trained adapter of a run, wherever its `save` put it."""
    for place in adapter_places(run).values():
        if (place / "adapter_config.json").exists():
            return place
    return None


def keep_trained(recipe: GradientRecipe, run: RunDirectory, loaded: Loaded, source: Source) -> None:
    """Write what was trained, right after the last step: from here on nothing can lose it."""
    wanted = wanted_save(recipe)
    if wanted == "model":
        save_model(loaded.model, loaded.tokenizer, run.model_path)
    else:
        place = adapter_places(run)[wanted]
        save_adapter(
            loaded.model,
            place,
            source,
            tokenizer=loaded.tokenizer,
            vocabulary=loaded.vocabulary,
            rope=loaded.rope,
        )


def reload(recipe: GradientRecipe, run: RunDirectory, resolved: dict[str, Any]) -> Loaded:
    """The trained model of a run whose training is done, as the next stage would load it.

    Raises RunError when the weights are gone.
    """
    return load(trained_section(recipe, run, resolved), recipe.quantization)


def trained_section(recipe: GradientRecipe, run: RunDirectory, resolved: dict[str, Any]) -> Model:
    """What was trained as a section to load. Raises RunError when the weights are gone."""
    place = run.model_path if wanted_save(recipe) == "model" else find_adapter(run)
    if place is None or not place.exists():
        raise RunError(f"The trained weights of {run.path} are gone. Train anew with --fresh.")
    return Model(
        name=str(place),
        dtype=NAMES_BACK.get(resolved.get("dtype", ""), "auto"),  # type: ignore[arg-type]
        attention=recipe.model.attention,
        trust_remote_code=recipe.model.trust_remote_code,
    )


NAMES_BACK = {str(dtype).removeprefix("torch."): name for dtype, name in NAMES.items()}


def save_due(recipe: GradientRecipe, run: RunDirectory) -> bool:
    """Whether what was asked for is not what lies there."""
    return (run.read_mark("saved") or {}).get("save") != wanted_save(recipe)


def save(
    recipe: GradientRecipe,
    run: RunDirectory,
    product: Loaded,
    held_out: Sequence[Encoded],
    *,
    folded: Callable[[Any, Any], Any] = lambda model, dtype: fold(model, dtype=dtype),
) -> None:
    """Put the adapter where `save` wants it and merge it into its base if asked, reporting the drift.

    ``folded``: from a model with an adapter and a number format to the plain model.
    """
    if not save_due(recipe, run):
        return
    wanted = wanted_save(recipe)
    drift: dict[str, Any] | None = None
    if wanted != "model":
        _move_adapter(run, adapter_places(run)[wanted])
    if wanted in ("merged", "both"):
        drift = _merge(run, product, held_out, folded)
    run.mark("saved", {"save": wanted, "drift": drift})


def _move_adapter(run: RunDirectory, target: Path) -> None:
    present = find_adapter(run)
    if present is None:
        raise RunError(f"The adapter of {run.path} is gone. Train anew with --fresh.")
    if present == target:
        return
    shutil.rmtree(target, ignore_errors=True)  # a merged model that is not wanted any more
    target.parent.mkdir(parents=True, exist_ok=True)
    present.rename(target)


def _merge(
    run: RunDirectory, product: Loaded, held_out: Sequence[Encoded], folded: Callable[[Any, Any], Any]
) -> dict[str, Any] | None:
    """Fold the adapter into its (dequantized) base, write it, and say how far that moved the predictions."""
    unmerged = hasattr(product.model, "peft_config")
    rows = list(held_out[:DRIFT_ROWS])
    reference = Reference(product.model, rows) if unmerged and rows else None
    if product.quantized:
        log.say("merging into the dequantized base: folded into 4 or 8 bits, most of a light adapter would round away")
    product.model = folded(product.model, product.dtype)
    product.quantized = False
    save_model(product.model, product.tokenizer, run.model_path)
    if reference is None:
        return None
    drift = reference.drift(product.model)
    log.say(
        f"merged; drift on {len(rows)} held-out rows: KL {drift['kl']:.2e} nats a token, "
        f"same first choice on {100 * drift['top1_agreement']:.2f}% of the tokens"
    )
    return drift


def calibration_batches(recipe: GradientRecipe, rows: Sequence[Encoded], tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Padded batches of training rows, for initialisations that look at data (EVA)."""
    collate = pad(pad_id(tokenizer))
    size = min(8, recipe.batch.size)
    for start in range(0, len(rows), size):
        batch = collate(rows[start : start + size])
        batch.pop("rows")
        yield batch
