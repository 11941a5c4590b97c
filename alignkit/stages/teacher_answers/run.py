"""The teacher-answers stage: a teacher's texts become a file of rows. What is done is kept: it can be cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignkit.console import log
from alignkit.data.prompts import Asked, prepare_prompts
from alignkit.data.report import Report
from alignkit.data.store.ingest import Ingested
from alignkit.errors import Fault, RequestError, RunError
from alignkit.evaluation.templated import templated_tokenizer, with_template
from alignkit.models.loading import load
from alignkit.models.sources import context_length, locate
from alignkit.runs.atomic import json_bytes, write_bytes
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.runs.journal import Journal
from alignkit.runs.outcome import Outcome
from alignkit.stages.teacher_answers.recipe import Recipe
from alignkit.teachers.answers import (
    Answerer,
    Drawing,
    LocalAnswerer,
    answer_row,
    draw_answers,
    usable_answers,
)
from alignkit.teachers.rationales import Reasoned, prepare_reasons
from alignkit.teachers.served_answers import ServedAnswerer
from alignkit.training.memory import is_out_of_memory

WRITTEN = "written.jsonl"
"""Every answer, by the prompt's number."""


def run(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Run the stage in its directory; called by the journey."""
    options = recipe.answers
    source = locate(recipe.teacher)
    log.say(source.said)
    limit = context_length(source) if options.server.url is None else None
    if limit is not None and limit - options.max_new_tokens < recipe.data.max_length:
        recipe.data.max_length = limit - options.max_new_tokens
        log.say(f"prompts of at most {recipe.data.max_length} tokens: the teacher reads {limit}, answers included")
    tokenizer, installed = templated_tokenizer(recipe.teacher, source, recipe.data)
    prompts, reasons, report, skipped = _prompts(recipe, tokenizer)
    for line in report.lines():
        log.say(line)
    for one in skipped:
        one.write_skipped(run.path / "skipped.jsonl")
    journal = Journal(run.path / WRITTEN)
    resolved: dict[str, Any] = run.read_mark("resolved") or {}
    if len(journal) < len(prompts):
        if len(journal):
            log.say(f"going on: {len(journal):,} of {len(prompts):,} prompts are answered")
        answerer, resolved = _answerer(recipe, tokenizer, installed)
        run.mark("resolved", resolved)
        _draw(recipe, answerer, prompts, journal)
    found = usable_answers(
        journal,
        len(prompts),
        keep_unfinished=options.unfinished == "keep",
        instead="Write a larger answers.max_new_tokens, or answers.unfinished=keep.",
    )
    for line in found.lines():
        log.say(line)
    rows = [
        answer_row(prompts[number], text) if reasons is None else reasons[number].row(text.strip())
        for number, text in found.kept
    ]
    result = run.path / f"{options.what}.jsonl"
    write_bytes(result, b"".join(json_bytes(row) for row in rows))
    figures = found.figures()
    headline = {"name": "rows", "after": figures["rows"]}
    return Outcome(
        result=result,
        metrics={"answers": figures, "data": report.as_dict(), "headline": headline},
        resolved=resolved,
    )


def _prompts(
    recipe: Recipe, tokenizer: Any
) -> tuple[Sequence[Asked], list[Reasoned] | None, Report, tuple[Ingested, ...]]:
    """What is asked; for rationales the rows that they belong to. Raises RequestError for a prompt of no token."""
    reasons: list[Reasoned] | None = None
    prompts: Sequence[Asked]
    if recipe.answers.what == "rationales":
        room = recipe.data.max_length
        reasoned = prepare_reasons(
            recipe.data, tokenizer, recipe.answers.instruction, room=room, digest_file=file_digest
        )
        reasons, report, skipped = reasoned.rows, reasoned.report, reasoned.skipped
        prompts = [one.asked for one in reasoned.rows]
    else:
        prepared = prepare_prompts(recipe.data, tokenizer, digest_file=file_digest)
        prompts, report, skipped = prepared.prompts, prepared.report, prepared.skipped
    empty = next((one.where for one in prompts if not one.ids), None)
    if empty is not None:
        what = "the prompt holds no token, so there is nothing to go on from"
        raise RequestError(Fault(where=empty, what=what, instead="Leave the row out."))
    return prompts, reasons, report, skipped


def _answerer(recipe: Recipe, tokenizer: Any, installed: Any) -> tuple[Answerer, dict[str, Any]]:
    """Who answers, and what every `auto` became."""
    options = recipe.answers
    drawing = Drawing(
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=recipe.seed,
    )
    if options.server.url is not None:
        name = options.server.model or recipe.teacher.name
        return ServedAnswerer(options.server, tokenizer, drawing, name=name), {"server.model": name}
    loaded = load(recipe.teacher, recipe.quantization, source=locate(recipe.teacher))
    if installed is not None:
        loaded = with_template(loaded, installed)
    return LocalAnswerer(loaded.model, tokenizer, drawing, batch=options.batch), loaded.resolved


def _draw(recipe: Recipe, answerer: Answerer, prompts: Sequence[Asked], journal: Journal) -> None:
    """`draw_answers`, with a sentence for a device that is too small."""
    try:
        draw_answers(answerer, prompts, journal)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        batch = recipe.answers.batch
        raise RunError(
            f"The memory does not hold {batch} answers at a time. Write answers.batch={max(1, batch // 2)}: the run "
            "goes on where it stopped, and the answers stay the same."
        ) from error
