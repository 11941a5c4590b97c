"""Whether a model gives one score for a text, told by its files. No torch."""

from __future__ import annotations

from alignkit.errors import Fault, RequestError
from alignkit.models.jsonfile import read_object
from alignkit.models.locating import Source


def classifier_faults(source: Source, where: str) -> list[Fault]:
    """What shows in the files of a source that it gives no single score; nothing for what has to be fetched first."""
    if source.path is None:
        return []
    if source.kind == "gguf":
        return [no_classifier(source, where, "a GGUF file holds a language model")]
    if source.adapter:
        kind = read_object(source.path / "adapter_config.json", where).get("task_type")
        return [] if kind == "SEQ_CLS" else [no_classifier(source, where, f"its adapter is of the type {kind}")]
    config = read_object(source.path / "config.json", where)
    architecture = next(iter(config.get("architectures") or ["unknown"]))
    if "ForSequenceClassification" not in architecture:
        return [no_classifier(source, where, f"it is a {architecture}")]
    names = config.get("id2label")
    outputs = len(names) if isinstance(names, dict) else config.get("num_labels", 2)
    if outputs != 1:
        return [no_classifier(source, where, f"it has {outputs} outputs")]
    return []


def scorer_faults(source: Source, where: str) -> list[Fault]:
    """What shows in the files of a source that it gives scores and writes no text; nothing for what has to be fetched
    first, and for what cannot be read (others say so)."""
    one: Source | None = source
    while one is not None:
        kind = _scores(one, where)
        if kind is not None:
            return [
                Fault(
                    where=f"{where}.name",
                    what=f"{source.place} is a reward model ({kind}): it gives scores and writes no text, and a "
                    "language model is wanted here",
                    instead="Give the language model that it was trained from; a reward is named where a recipe has "
                    "one (rank.reward, evaluation.reward, alignkit eval MODEL reward=…).",
                )
            ]
        one = one.parent
    return []


def _scores(source: Source, where: str) -> str | None:
    """What a source calls itself where it is a classifier."""
    if source.path is None or source.kind == "gguf":
        return None
    try:
        if source.adapter:
            kind = read_object(source.path / "adapter_config.json", where).get("task_type")
            return "an adapter of the type SEQ_CLS" if kind == "SEQ_CLS" else None
        name = str(next(iter(read_object(source.path / "config.json", where).get("architectures") or [""])))
    except RequestError:
        return None
    return name if "ForSequenceClassification" in name else None


def no_classifier(source: Source, where: str, why: str) -> Fault:
    """The fault of a model that cannot be asked for a score."""
    return Fault(
        where=f"{where}.name",
        what=f"{source.place} is no reward model: {why}, and a reward model is a sequence classifier with one output",
        instead="Give one, or write {name: judge, model: …} to let a causal model grade.",
    )
