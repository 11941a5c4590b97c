"""A teacher goes in, a student comes out: measured, planned, cut, and held against the teacher it was cut from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignkit.console import log
from alignkit.errors import Fault, RequestError
from alignkit.models.loading import Loaded
from alignkit.models.saving import save_model
from alignkit.models.students import importance
from alignkit.models.students.anatomy import Anatomy, laid_open, require_prunable
from alignkit.models.students.cut import check, fill, fresh
from alignkit.models.students.importance import CalibrationRow
from alignkit.models.students.plan import (
    Plan,
    Shape,
    best,
    evenly,
    kept_heads,
    nearest_depth,
    nearest_width,
    smallest,
)
from alignkit.models.students.recipe import Student
from alignkit.models.students.record import Record, read_record, write_record
from alignkit.models.students.shape import Counter, shape_of

WHERE = "distill.student"


@dataclass
class Made:
    """A student and how it came about."""

    model: Any
    tokenizer: Any
    record: Record

    def save(self, directory: Path) -> Path:
        """Write a directory that plain transformers loads, with `student.json` as its last file. Returns it."""
        save_model(self.model, self.tokenizer, directory)
        write_record(directory, self.record)
        return directory


def student_at(
    directory: Path,
    teacher: Callable[[], Loaded],
    section: Student,
    rows: Sequence[CalibrationRow],
    *,
    seed: int,
    where: str = WHERE,
) -> Path:
    """The student of ``make_student`` in ``directory``, made only where it does not stand there whole already.

    ``teacher`` loads the teacher; it is called only if need be. Everything else of a stage can then work with the
    directory as with any model.
    """
    record = read_record(directory)
    if record is None:
        made = make_student(teacher(), section, rows, seed=seed, where=where)
        made.save(directory)
        record = made.record
    for line in record.lines():
        log.say(line)
    return directory


def make_student(
    teacher: Loaded, section: Student, rows: Sequence[CalibrationRow], *, seed: int, where: str = WHERE
) -> Made:
    """Make the student that ``section`` asks for, in the teacher's number format and on its device.

    Args:
        rows: training rows; the first ``section.rows`` are read where importance is measured (``section.measured``).
        seed: of new weights.
        where: key that the section stands under, for errors.

    The teacher is left as it was; for a moment both are in memory. Raises RequestError for a teacher that is quantized
    or whose family cannot be cut, and for a size that is out of reach; RunError where the student does not compute what
    its masked teacher does.
    """
    if teacher.quantized or hasattr(teacher.model, "peft_config"):
        raise RequestError(
            Fault(
                where=f"{where}.kind",
                what="a student takes slices of its teacher's weights, and these are quantized",
                instead=f"Load the teacher without quantization to make the student, or write {where}.kind=given.",
            )
        )
    if section.measured and not rows:
        raise RequestError(
            Fault(
                where=f"{where}.rows",
                what=f"kind={section.kind} measures importance on training rows, and there are none",
                instead=f"Give data, or write {where}.kind=layers.",
            )
        )
    anatomy = laid_open(teacher.model, f"{where}.kind")
    if section.kind == "width":
        require_prunable(anatomy, section.prune, where)
    with torch.no_grad(), importance.resting(teacher.model):
        plan = planned(anatomy, section, list(rows[: section.rows]), where)
        student = fresh(anatomy, plan, teacher.dtype, seed)
        if section.init == "teacher":
            fill(student, anatomy, plan)
            off = check(student, anatomy, plan, seed)
            log.detail(f"the student computes what its masked teacher does ({off:.1e} standard deviations off)")
    count = Counter(anatomy)
    record = Record(
        kind=section.kind,
        init=section.init,
        layers=plan.layers,
        heads=plan.shape.heads,
        key_value_heads=plan.shape.groups,
        mlp=plan.shape.neurons,
        hidden=plan.shape.channels,
        channels=plan.channels,
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        teacher_parameters=count.total(shape_of(anatomy)),
        teacher_layers=anatomy.depth,
        asked=section.parameters,
    )
    return Made(student, teacher.tokenizer, record)


def planned(anatomy: Anatomy, section: Student, rows: Sequence[CalibrationRow], where: str = WHERE) -> Plan:
    """Which parts stay. Reads ``rows`` with the teacher where that takes importance."""
    shape = _shape(anatomy, section, where)
    layers = _layers(anatomy, section, shape.layers, rows)
    if section.kind != "width" or section.init == "random":  # which ones stay means nothing to new weights
        return Plan(layers, shape)
    scores = importance.activations(anatomy, rows, section.prune)
    heads = groups = neurons = channels = None
    kept = torch.tensor(layers)
    if scores.heads is not None:
        heads, groups = kept_heads(scores.heads[kept], anatomy.groups, shape.heads, shape.groups)
    if scores.neurons is not None:
        neurons = [best(own, shape.neurons) for own in scores.neurons[kept]]
    if scores.channels is not None:
        channels = best(scores.channels, shape.channels)
    return Plan(layers, shape, heads, groups, neurons, channels)


def _layers(anatomy: Anatomy, section: Student, count: int, rows: Sequence[CalibrationRow]) -> list[int]:
    """The teacher's layers that stay."""
    if isinstance(section.layers, list):
        return section.layers
    if count == anatomy.depth:
        return list(range(count))
    if section.kind == "layers" or section.init == "random":
        return evenly(anatomy.depth, count)
    measure = importance.block_influence if section.importance == "block-influence" else importance.loss_rise
    scores = measure(anatomy, rows)
    log.detail("importance of the layers: " + " ".join(f"{score:.3g}" for score in scores.tolist()))
    return best(scores, count)


def _shape(anatomy: Anatomy, section: Student, where: str) -> Shape:
    """The sizes that were asked for. Raises RequestError where there are none such."""
    teacher = shape_of(anatomy)
    count = Counter(anatomy)
    depth = _depth(anatomy, section, where)
    if depth is not None:
        teacher = Shape(depth, teacher.heads, teacher.groups, teacher.neurons, teacher.channels)
        if section.kind != "width":
            return teacher
    whole = count.in_layers(shape_of(anatomy))
    measure = count.total if section.parameters is not None else count.in_layers
    wanted = section.parameters if section.parameters is not None else round((section.fraction or 1.0) * whole)
    if section.kind == "width":
        least = smallest(teacher, section.prune, section.multiple)
        _require_reach(section, wanted, measure(least), measure(teacher), where)
        return nearest_width(teacher, section.prune, section.multiple, wanted, measure)

    def of(layers: int) -> Shape:
        return Shape(layers, teacher.heads, teacher.groups, teacher.neurons, teacher.channels)

    if section.parameters is not None:
        _require_reach(section, wanted, measure(of(1)), measure(teacher), where)
    return of(nearest_depth(anatomy.depth, wanted, lambda layers: measure(of(layers))))


def _depth(anatomy: Anatomy, section: Student, where: str) -> int | None:
    """How many layers were asked for by number; None: by another measure."""
    if section.layers is None:
        return None
    named = section.layers if isinstance(section.layers, list) else [section.layers - 1]
    if named[-1] >= anatomy.depth:
        raise RequestError(
            Fault(
                where=f"{where}.layers",
                what=f"the teacher has {anatomy.depth} layers, 0 to {anatomy.depth - 1}"
                if isinstance(section.layers, list)
                else f"{section.layers} layers are more than the teacher's {anatomy.depth}",
                instead=f"Write {anatomy.depth - 1} or less.",
            )
        )
    return len(section.layers) if isinstance(section.layers, list) else section.layers


def _require_reach(section: Student, wanted: int, least: int, most: int, where: str) -> None:
    if least <= wanted <= most:
        return
    key = "parameters" if section.parameters is not None else "fraction"
    how = f"kind={section.kind}" + (f" and prune=[{', '.join(section.prune)}]" if section.kind == "width" else "")
    what = f"{wanted:,} parameters" + ("" if section.parameters is not None else " in the layers")
    raise RequestError(
        Fault(
            where=f"{where}.{key}",
            what=f"{what} are out of reach: {how} goes from {least:,} to {most:,}",
            instead="Ask for a size between those, or let something else become smaller too.",
        )
    )
