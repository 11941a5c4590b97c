"""A YAML file that was written for mergekit, in our words.

The keys are those of mergekit's documentation (docs/merge_methods.md and README, version 0.1.5). What has no
counterpart here is named, all of it at once, so that nobody gets another merge than the one that was asked for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from alignkit.config.plain_yaml import check_size, read_text
from alignkit.errors import Fault, RequestError

TOP = {"merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source"}
TOP |= {"tokenizer"}
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}

VALUES = {
    "weight": "weight",
    "density": "density",
    "gamma": "gamma",
    "epsilon": "epsilon",
    "scale": "scale",
    "t": "t",
    "lambda": "scaling",
    "select_topk": "topk",
}
"""Parameters that may differ by layer and module: mergekit's name to ours."""
FLAGS = {
    "normalize": "normalize",
    "normalize_weights": "normalize",
    "rescale": "rescale",
    "filter_wise": "row_wise",
}
DEFAULTS = {"density": 1.0, "epsilon": 0.15}
"""Where mergekit's defaults are not ours (the papers'): what a file that says nothing means."""
WITHOUT_EFFECT = {"int8_mask", "max_iter", "tol", "eps"}
"""Options of mergekit's machinery: masks need no memory here, and means are iterated until they stand still."""
READ = {
    **dict.fromkeys(("ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties"), ("density",)),
    **dict.fromkeys(("della_linear", "della"), ("density", "epsilon")),
}
"""Methods to those parameters whose default differs."""
TWO_OF_WHICH_THE_BASE_IS_ONE = {"slerp"}
"""Methods whose base_model is the first of the two models."""


_IN_A_LAYER = r"^(?=(?:.*\.)?\d+\.)"
"""Finds the names of tensors with a number in them."""


class _Reading:
    """One file: what it becomes and what is wrong with it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.faults: list[Fault] = []

    def fault(self, where: str, what: str, instead: str = "") -> None:
        self.faults.append(Fault(where=f"{self.file} {where}".strip(), what=what, instead=instead))

    def model(self, given: Any, where: str) -> str:
        """A reference to a model as a name of ours: `path`, `path+adapter`, hub names as they are."""
        if isinstance(given, dict):
            inner = given.get("model")
            path = inner.get("path") if isinstance(inner, dict) else inner
            lora = given.get("lora")
            lora = lora.get("path") if isinstance(lora, dict) else lora
            if not isinstance(path, str) or (lora is not None and not isinstance(lora, str)):
                self.fault(where, "is no reference to a model")
                return ""
            given = f"{path}+{lora}" if lora else path
        if not isinstance(given, str) or not given:
            self.fault(where, f"is {given!r}, and must name a model")
            return ""
        return "+".join(_spelled(part) for part in given.split("+"))

    def values(self, given: Any, where: str) -> dict[str, Any]:
        """A `parameters:` mapping in our names."""
        found: dict[str, Any] = {}
        if given is None:
            return found
        if not isinstance(given, dict):
            self.fault(where, "must be a mapping")
            return found
        for name, value in given.items():
            place = f"{where}.{name}"
            if name in VALUES:
                found[VALUES[name]] = self.value(value, place)
            elif name in FLAGS:
                if isinstance(value, bool | int):
                    found[FLAGS[name]] = bool(value)
                else:
                    self.fault(place, f"is {value!r}, and can only be true or false here")
            elif name not in WITHOUT_EFFECT:
                self.fault(place, "is not supported", "Take it out, if the merge you want does not depend on it.")
        return found

    def value(self, given: Any, where: str, match: str | None = None) -> Any:
        """A number, or rules: of a list of conditions, or of a gradient (for the tensors that `match` finds)."""
        if isinstance(given, list) and given and all(isinstance(one, dict) for one in given):
            rules: list[dict[str, Any]] = []
            for at, one in enumerate(given):
                unknown = set(one) - {"filter", "value"}
                if unknown or "value" not in one:
                    self.fault(f"{where}[{at}]", "must have a value, and may have a filter, and nothing else")
                    continue
                word = one.get("filter")
                # mergekit looks for the filter as plain text in the tensor's name, and takes * for all.
                match = None if word in (None, "*") else re.escape(str(word))
                value = self.value(one["value"], f"{where}[{at}].value", match)
                rules += value if isinstance(value, list) else [{"match": match, "value": value}]
            return rules
        numbers = given if isinstance(given, list) else [given]
        if not numbers or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
            self.fault(where, f"is {given!r}, and must be a number, a list of numbers, or a list of filters and values")
            return None
        if len(numbers) == 1:
            return numbers[0]
        # A gradient holds in the layers; what is in none, above them too, takes its first value there.
        inside = _IN_A_LAYER if match is None else f"{_IN_A_LAYER}.*{match}"
        return [{"match": inside, "value": numbers}, {"match": match, "value": numbers[0]}]


def _spelled(name: str) -> str:
    """A name as our recipes write it: mergekit takes a path where one stands, and a hub name elsewhere."""
    if Path(name).expanduser().exists() and not name.startswith(("./", "../", "/", "~")):
        return f"./{name}"
    return name


def read_mergekit(file: Path) -> dict[str, Any]:
    """The values of our `merge` section that a file of mergekit's says. Raises RequestError with every fault."""
    reading = _Reading(file)
    tree = _load(file)
    for key in tree:
        if key not in TOP:
            reading.fault(key, "is not supported", "Take it out, if the merge you want does not depend on it.")
    result: dict[str, Any] = {}
    method = tree.get("merge_method")
    if not isinstance(method, str):
        reading.fault("merge_method", "must name a method")
        method = ""
    result["method"] = method
    said = dict(tree["parameters"]) if isinstance(tree.get("parameters"), dict) else tree.get("parameters")
    if method == "nuslerp" and isinstance(said, dict):
        _row_wise(reading, said, result)
    result |= {VALUES[name]: DEFAULTS[name] for name in READ.get(method, ())}
    result |= reading.values(said, "parameters")
    _formats(reading, tree, result)
    base = reading.model(tree["base_model"], "base_model") if tree.get("base_model") is not None else None
    if (tree.get("models") is None) == (tree.get("slices") is None):
        reading.fault("", "must have either models or slices")
    elif tree.get("models") is not None:
        _models(reading, tree["models"], method, base, result)
    else:
        _slices(reading, tree["slices"], method, base, result)
    if base is not None and method not in TWO_OF_WHICH_THE_BASE_IS_ONE:
        result["base"] = {"name": base}
    _tokenizer(reading, tree, base, result)
    if reading.faults:
        raise RequestError(reading.faults)
    return result


def _row_wise(reading: _Reading, said: dict[str, Any], result: dict[str, Any]) -> None:
    """Of nuslerp's two switches one has an effect only when the other is off.

    Measured on mergekit 0.1.5: without nuslerp_row_wise vectors lie along the last axis of the stored matrix, which is
    a row here; with it along the first, and columns by themselves are not ours.
    """
    flat, rows = said.pop("nuslerp_flatten", True), said.pop("nuslerp_row_wise", False)
    if not flat and rows:
        reading.fault(
            "parameters.nuslerp_row_wise", "turns each column of a stored matrix by itself, which is not supported"
        )
    elif not flat:
        result["row_wise"] = True


def _load(file: Path) -> dict[str, Any]:
    import yaml

    where = "merge.from_mergekit"
    text = read_text(file, f"{where}={file}")
    check_size(text, f"{where}={file}")
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = str(error).splitlines()[0]
        raise RequestError(Fault(where=where, what=f"{file} is no YAML: {line}")) from error
    if not isinstance(tree, dict):
        raise RequestError(Fault(where=where, what=f"{file} holds no mapping", instead="Give a file of mergekit's."))
    return {str(key): value for key, value in tree.items()}


def _formats(reading: _Reading, tree: dict[str, Any], result: dict[str, Any]) -> None:
    """The format of the result. mergekit's dtype is also that of its arithmetic, and ours is always in fp32."""
    for key in ("dtype", "out_dtype"):
        said = tree.get(key)
        if said is None:
            continue
        if said not in DTYPES:
            reading.fault(key, f"is {said!r}", f"There are: {', '.join(DTYPES)}.")
        else:
            result["dtype"] = DTYPES[said]


def _models(reading: _Reading, given: Any, method: str, base: str | None, result: dict[str, Any]) -> None:
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        reading.fault("models", "must be a list of mappings")
        return
    models = []
    for at, one in enumerate(given):
        where = f"models[{at}]"
        if unknown := sorted(set(one) - {"model", "parameters"}):
            reading.fault(where, f"has {', '.join(unknown)}, which is not supported")
        values = reading.values(one.get("parameters"), f"{where}.parameters")
        models.append({"name": reading.model(one.get("model"), f"{where}.model"), **values})
    if method in TWO_OF_WHICH_THE_BASE_IS_ONE and base is not None:
        others = [one for one in models if one["name"] != base]
        mine = next((one for one in models if one["name"] == base), {"name": base})
        models = [mine, *others]
    elif base is not None and method not in ("linear", "passthrough"):
        # The base may stand among the models, where it has no task vector of its own.
        models = [one for one in models if one["name"] != base]
    result["models"] = models


def _slices(reading: _Reading, given: Any, method: str, base: str | None, result: dict[str, Any]) -> None:
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        reading.fault("slices", "must be a list of mappings")
        return
    names: list[str] = [base] if base is not None and method in TWO_OF_WHICH_THE_BASE_IS_ONE else []
    found = []
    for at, one in enumerate(given):
        where = f"slices[{at}]"
        if unknown := sorted(set(one) - {"sources", "parameters"}):
            reading.fault(where, f"has {', '.join(unknown)}, which is not supported")
        sources = one.get("sources")
        if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
            reading.fault(f"{where}.sources", "must be a list of mappings")
            continue
        mine = [_source(reading, source, f"{where}.sources[{i}]", names) for i, source in enumerate(sources)]
        if base is not None and method in TWO_OF_WHICH_THE_BASE_IS_ONE:
            mine.sort(key=lambda source: source["model"])
        elif base is not None:
            mine = _without_base(reading, mine, names, base, where)
        found.append({"sources": mine, **reading.values(one.get("parameters"), f"{where}.parameters")})
    if base is not None and base in names and method not in TWO_OF_WHICH_THE_BASE_IS_ONE:
        gone = names.index(base)
        sources = [source for one in found for source in one["sources"]]
        if all(source["model"] != gone for source in sources):
            for source in sources:
                source["model"] -= source["model"] > gone
            names.remove(base)
    result["models"] = [{"name": name} for name in names]
    result["slices"] = found


def _source(reading: _Reading, given: dict[str, Any], where: str, names: list[str]) -> dict[str, Any]:
    if unknown := sorted(set(given) - {"model", "layer_range", "parameters"}):
        reading.fault(where, f"has {', '.join(unknown)}, which is not supported")
    name = reading.model(given.get("model"), f"{where}.model")
    if name not in names:
        names.append(name)
    layers = given.get("layer_range")
    if not (isinstance(layers, list) and len(layers) == 2 and all(type(one) is int for one in layers)):
        reading.fault(f"{where}.layer_range", f"is {layers!r}, and must be [first, end]")
        layers = [0, 1]
    values = reading.values(given.get("parameters"), f"{where}.parameters")
    return {"model": names.index(name), "layers": layers, **values}


def _without_base(
    reading: _Reading, sources: list[dict[str, Any]], names: list[str], base: str, where: str
) -> list[dict[str, Any]]:
    """The sources without the base, whose layers must be those of the others: ours takes them from there."""
    if base not in names or len(sources) == 1:
        return sources
    own = [source for source in sources if source["model"] == names.index(base)]
    others = [source for source in sources if source not in own]
    if any(source["layers"] != other["layers"] for source in own for other in others):
        reading.fault(f"{where}.sources", "takes other layers of the base than of the models, which is not supported")
    return others or own


def _tokenizer(reading: _Reading, tree: dict[str, Any], base: str | None, result: dict[str, Any]) -> None:
    source = tree.get("tokenizer_source")
    section = tree.get("tokenizer")
    if isinstance(section, dict):
        for key in sorted(set(section) - {"source", "pad_to_multiple_of"}):
            reading.fault(f"tokenizer.{key}", "is not supported", "Take it out, or merge the embeddings without it.")
        source = section.get("source", source)
        if section.get("pad_to_multiple_of") is not None:
            result["pad_to_multiple"] = section["pad_to_multiple_of"]
            source = source or "union"
    elif section is not None:
        reading.fault("tokenizer", "must be a mapping")
    if source is None:
        return
    if source in ("base", "union"):
        result["tokenizer"] = source
    else:
        result["tokenizer"] = reading.model(source, "tokenizer_source")
