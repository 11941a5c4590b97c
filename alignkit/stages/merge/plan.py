"""The whole merge as a list: which tensor is made of which, with which parameters. Nothing is computed or written here.

recipe, parents' headers → faults, all at once → for each tensor of the result its inputs and values → jobs
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from alignkit.errors import Fault
from alignkit.stages.merge import compare, parameters, slices
from alignkit.stages.merge.architecture import is_embedding, sorted_names
from alignkit.stages.merge.methods import METHODS, Method
from alignkit.stages.merge.parents import Parent, Parents
from alignkit.stages.merge.recipe import MergeOptions, Recipe
from alignkit.stages.merge.vocabulary import Together
from alignkit.tensors.jobs import Job, Source
from alignkit.tensors.numbers import FLOATS, WIDTHS

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}


@dataclass(frozen=True)
class Planned:
    """One tensor of the result."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    inputs: list[tuple[int, str]]
    """Place in merge.models, and what the tensor is called there."""
    base: str | None
    """What it is called in the base; None: the method has no use for one."""
    values: dict[str, float | list[float]]
    """Parameters of the method; empty for a tensor that is copied."""
    copied: bool = False

    @property
    def nbytes(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count * WIDTHS[self.dtype]


@dataclass
class Plan:
    """Everything that decides the result's weights."""

    method: Method
    parents: Parents
    seed: int
    tensors: list[Planned] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """What the person should know."""
    vocabulary: Together | None = None
    """Set where the parents' vocabularies were brought together."""

    @property
    def nbytes(self) -> int:
        """Size of the result's tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def digest(self) -> str:
        """64 hex digits that tell this plan from another: an interrupted merge goes on only with its own."""
        told = [
            [tensor.name, tensor.shape, tensor.dtype, tensor.inputs, tensor.base, tensor.values, tensor.copied]
            for tensor in self.tensors
        ]
        text = json.dumps([self.method.name, self.seed, told], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def jobs(self) -> list[Job]:
        """What the engine is to do."""
        return [self._job(tensor) for tensor in self.tensors]

    def _job(self, tensor: Planned) -> Job:
        inputs: list[tuple[Source, str]] = [(self.parents.models[at].weights, own) for at, own in tensor.inputs]
        if tensor.copied:
            return Job(tensor.name, tensor.shape, tensor.dtype, tuple(inputs[:1]))
        base: tuple[Source, str] | None = None
        if tensor.base is not None:
            assert self.parents.base is not None
            base = (self.parents.base.weights, tensor.base)
        key = hashlib.sha256(f"{self.seed}\n{tensor.name}".encode()).digest()
        start = partial(self.method.start, tensor.shape, tensor.values, key)
        return Job(tensor.name, tensor.shape, tensor.dtype, tuple(inputs), base, start)


def make_plan(recipe: Recipe, parents: Parents, vocabulary: Together | None = None) -> tuple[Plan, list[Fault]]:
    """The plan, and every fault that keeps it from being carried out (the plan is then not to be used)."""
    options = recipe.merge
    method = METHODS.get(options.method)
    if method is None:
        what = f"{options.method} merges LoRA adapters that lie on one base, and the models here are not all such"
        fault = Fault(where="merge.method", what=what, instead=f"Whole models are merged by: {', '.join(METHODS)}.")
        return Plan(METHODS["linear"], parents, recipe.seed), [fault]
    plan = Plan(method, parents, recipe.seed, vocabulary=vocabulary)
    compare.align(parents)
    found = [*_method_faults(options, method, parents)]
    found += compare.faults(parents, layered=bool(options.slices))
    found += slices.faults(options, parents, based=method.base != "unused")
    places = parameter_places(options)
    found += parameters.faults(places, method, all_parameters())
    if found:
        return plan, found
    plan.remarks += compare.remarks(parents)
    names = _lay_out(plan, options)
    plan.remarks += parameters.unmatched(places, all_parameters(), names)
    plan.config = _config(plan, options)
    return plan, _joint_faults(plan)


def all_parameters() -> list[str]:
    """Every parameter that any method reads."""
    return sorted({name for method in METHODS.values() for name in method.parameters})


def parameter_places(options: MergeOptions) -> dict[str, Any]:
    """Key of each section that holds parameters to the section."""
    found: dict[str, Any] = {"merge": options}
    found |= {f"merge.models[{at}]": model for at, model in enumerate(options.models)}
    for at, one in enumerate(options.slices):
        found[f"merge.slices[{at}]"] = one
        found |= {f"merge.slices[{at}].sources[{place}]": source for place, source in enumerate(one.sources)}
    return found


def _method_faults(options: MergeOptions, method: Method, parents: Parents) -> list[Fault]:
    found = []
    if method.needs_base and parents.base is None:
        found.append(
            Fault(
                where="merge.base",
                what=f"{method.name} works on the differences from a base, and none is given",
                instead="Write merge.base=NAME: the model that the others were fine-tuned from.",
            )
        )
    low, high = method.models
    counts = {"merge.models": len(options.models)}
    if options.slices:
        counts = {f"merge.slices[{at}].sources": len(one.sources) for at, one in enumerate(options.slices)}
    for where, count in counts.items():
        # A slice of one model is passed through as it is, whatever the method.
        if (count < low and not (options.slices and count == 1)) or (high is not None and count > high):
            wanted = f"{low}" if high == low else f"{low} or more" if high is None else f"{low} to {high}"
            found.append(
                Fault(where=where, what=f"{method.name} takes {wanted} models, and {count} are given", instead="")
            )
    return found


def _joint_faults(plan: Plan) -> list[Fault]:
    """Values of one tensor that are each in their range, and do not go together."""
    check = plan.method.check
    if check is None:
        return []
    found = [fault for tensor in plan.tensors if tensor.values for fault in check(tensor.values)]
    return [Fault(where=f"merge.{name}", what=what) for name, what in dict.fromkeys(found)]


def _lay_out(plan: Plan, options: MergeOptions) -> list[str]:
    """Fill in the tensors; returns their names."""
    parents, layers = plan.parents, plan.parents.leading.layers
    wanted = compare.needed(parents)
    head = next((parent.head for parent in parents.all if parent.head is not None), None)
    if head is not None and not all(parent.tied for parent in parents.all):
        wanted.append(head)
    rows = slices.stack(options, parents)
    names: list[str] = []
    if not options.slices:
        every = dict.fromkeys(range(len(parents.models)), 0)
        for name in wanted:
            layer = layers.of(name)
            where = rows[layer] if layer is not None else slices.Stretch(every, None, layers.depth(name))
            _add(plan, options, name, where, dict.fromkeys(where.layers, name), name)
    else:
        below, above = rows[0], rows[-1]
        for name in (name for name in wanted if layers.of(name) is None):
            where = below if is_embedding(name) else above
            _add(plan, options, name, where, dict.fromkeys(where.layers, name), name)
        for number, where in enumerate(rows):
            model, first = next(iter(where.layers.items()))
            for based in slices.names_of(parents.models[model], first):
                own = {at: layers.renamed(based, layer) for at, layer in where.layers.items()}
                _add(plan, options, layers.renamed(based, number), where, own, based)
    order = {name: place for place, name in enumerate(sorted_names((t.name for t in plan.tensors), layers))}
    plan.tensors.sort(key=lambda tensor: order[tensor.name])
    names += order
    return names


def _add(
    plan: Plan,
    options: MergeOptions,
    name: str,
    where: slices.Stretch,
    own: dict[int, str],
    based: str,
) -> None:
    """Plan one tensor: `own` is its common name in each model, `based` the one in the base."""
    parents, method = plan.parents, plan.method
    models = [parents.models[at] for at in where.models]
    told = [(at, _own_name(parents.models[at], own[at])) for at in where.models]
    leading = parents.base if parents.base is not None and not options.slices else models[0]
    named = _own_name(leading, based if leading is parents.base else own[where.models[0]])
    info = leading.weights.tensors[named]
    shape, stored = tuple(info.shape), info.dtype
    if stored not in FLOATS:
        plan.tensors.append(Planned(name, shape, stored, told[:1], None, {}, copied=True))
        return
    dtype = stored if options.dtype == "auto" else DTYPES[options.dtype]
    alone = bool(options.slices) and len(models) == 1 and method.models[0] > 1
    values: dict[str, float | list[float]] = {}
    if not alone:
        one = options.slices[where.slice] if where.slice is not None else None
        shared = [*([one] if one is not None else []), options]
        each = [
            [*([one.sources[place]] if one is not None else []), options.models[at]]
            for place, at in enumerate(where.models)
        ]
        values = parameters.resolve(method, name, where.depth, shared, each)
    copied = alone or (method.name == "passthrough" and values.get("scale") == [1.0])
    base = None
    if not copied and method.base != "unused" and parents.base is not None:
        base = _own_name(parents.base, based)
    plan.tensors.append(Planned(name, shape, dtype, told, base, values, copied))


def _own_name(parent: Parent, name: str) -> str:
    """What a tensor is called in the parent's files; a head that it ties is its embedding."""
    if name not in parent.names and parent.embedding is not None:
        name = parent.embedding
    return parent.names[name]


def _config(plan: Plan, options: MergeOptions) -> dict[str, Any]:
    """config.json of the result: the leading model's, with what the merge changes."""
    parents = plan.parents
    config = slices.restacked(dict(parents.leading.config), options, parents)
    config.pop("_name_or_path", None)
    if any(not parent.tied for parent in parents.all):
        holder = config
        text = config.get("text_config")
        if isinstance(text, dict) and "tie_word_embeddings" in text:
            holder = config["text_config"] = dict(text)
        if holder.get("tie_word_embeddings") or any(parent.tied for parent in parents.all):
            holder["tie_word_embeddings"] = False
    if options.dtype != "auto":
        words = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
        config.pop("torch_dtype", None)
        config["dtype"] = words[options.dtype]
    return config
