"""The model card of a trained result: what was done to which model, on what, and whether it worked."""

from __future__ import annotations

from typing import Any

import yaml

from alignkit.config.key_values import decisive
from alignkit.config.recipe import GradientRecipe
from alignkit.evaluation.report import metrics_markdown
from alignkit.models.locating import Source, read_origin
from alignkit.models.rope.carried import own_plan
from alignkit.models.saving import Card, escaped, fenced, license_of, write_card
from alignkit.runs.directory import RunDirectory
from alignkit.runs.versions import TOLD, package_versions
from alignkit.training.results import find_adapter, wanted_save


def write_cards(recipe: GradientRecipe, run: RunDirectory, source: Source, metrics: dict[str, Any]) -> None:
    """README.md in RUN/model, and in RUN/adapter where both were saved."""
    wanted = wanted_save(recipe)
    write_card(run.model_path, _card(recipe, run, source, metrics, adapter=wanted == "adapter"))
    if wanted == "both":
        write_card(run.path / "adapter", _card(recipe, run, source, metrics, adapter=True))


def _card(recipe: GradientRecipe, run: RunDirectory, source: Source, metrics: dict[str, Any], *, adapter: bool) -> Card:
    base = source
    while base.parent is not None:
        base = base.parent
    called = escaped(base.hub_name or (base.path.name if base.path else "a local model"))
    how = {"none": "full fine-tuning", "lora": "LoRA", "dora": "DoRA"}[recipe.adapter.kind]
    training = metrics.get("training") or {}
    data = metrics.get("data") or {}
    rows = training.get("rows")
    summary = (
        f"{called} after the {recipe.stage} stage of alignkit ({how})"
        + (f", {training.get('steps')} steps of {recipe.batch.size} rows on {rows} rows." if rows else ".")
        + ("" if adapter or recipe.adapter.kind == "none" else " The adapter is merged into the weights.")
    )
    versions = package_versions()
    sections = [("Did it work", metrics_markdown(metrics))]
    if "drift" in metrics and not adapter:
        drift = metrics["drift"]
        sections.append(
            (
                "Drift of the merge",
                f"Against the unmerged adapter on held-out rows: KL {drift['kl']:.2e} nats a token, the "
                f"same first choice on {100 * drift['top1_agreement']:.2f}% of the tokens.",
            )
        )
    sections += [
        ("New tokens", _new_tokens(run) if adapter else ""),
        ("A longer window", _longer_window(run) if adapter else ""),
        ("Data", "\n".join(f"- {escaped(line)}" for line in data.get("lines", [])) or "No report."),
        ("Settings", fenced(yaml.safe_dump(decisive(recipe), sort_keys=False), "yaml")),
        ("Versions", ", ".join(f"{name} {versions[name]}" for name in TOLD if name in versions)),
    ]
    return Card(
        title=f"{called.rsplit('/', 1)[-1]} · {recipe.stage}",
        summary=summary,
        adapter=adapter,
        base_model=base.hub_name,
        license=license_of(source),
        tags=[recipe.stage, *([recipe.adapter.kind] if recipe.adapter.kind != "none" else [])],
        sections=[(heading, text) for heading, text in sections if text.strip()],
    )


def _new_tokens(run: RunDirectory) -> str:
    """How PEFT alone loads an adapter whose base got tokens; empty where it got none."""
    place = find_adapter(run)
    noted = (read_origin(place) or {}).get("vocabulary") if place is not None else None
    if not noted or not noted["trained"]:
        return ""
    return (
        f"A chat template was installed, and the rows of {len(noted['trained'])} tokens are trained with the adapter. "
        "alignkit loads it as it is. With PEFT alone, make room in the base first: "
        f"`base.resize_token_embeddings({noted['rows']})`, then `PeftModel.from_pretrained(base, ADAPTER)`, and take "
        "the tokenizer that lies beside the adapter."
    )


def _longer_window(run: RunDirectory) -> str:
    """How PEFT alone loads an adapter of a stretched window, which its file has no place for; empty where it is not."""
    place = find_adapter(run)
    plan = own_plan(place) if place is not None else None
    if plan is None:
        return ""
    return (
        f"{plan.said} alignkit loads the adapter with these positions. With PEFT alone they are lost, without a word: "
        "an adapter's files do not hold them. Set them before the base is built:\n\n"
        "```python\n"
        "from peft import PeftModel\n"
        "from transformers import AutoConfig, AutoModelForCausalLM\n\n"
        "config = AutoConfig.from_pretrained(BASE)\n"
        "text = config.get_text_config()\n"
        f"text.rope_parameters = {plan.parameters!r}\n"
        f"text.max_position_embeddings = {plan.positions}\n"
        "base = AutoModelForCausalLM.from_pretrained(BASE, config=config)\n"
        "model = PeftModel.from_pretrained(base, ADAPTER)\n"
        "```\n\n"
        "Or save the model whole, with `save=merged`: its config.json says all of it."
    )
