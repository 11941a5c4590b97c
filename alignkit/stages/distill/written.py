"""What a teacher writes for a run: answers to the training prompts, or the reasons for the data's own answers.

All of it stands in the run, line by line, so that a run that was cut off asks for nothing twice.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from alignkit.console import log
from alignkit.data.encoding.tokenizing import prompt_ids
from alignkit.data.prepare import Prepared, prepare
from alignkit.data.prompts import Asked
from alignkit.data.store.rowstore import View
from alignkit.errors import Fault, RequestError, RunError
from alignkit.models.loading import load
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.runs.journal import Journal
from alignkit.stages.distill import steps
from alignkit.stages.distill.recipe import Recipe
from alignkit.stages.distill.steps import PreparedSteps
from alignkit.stages.distill.teaching import Teaching
from alignkit.stages.distill.texts import Question, answered, documents, keep, questions, section_of
from alignkit.teachers.answers import Answerer, Drawing, LocalAnswerer, draw_answers, usable_answers
from alignkit.teachers.rationales import reasoned
from alignkit.teachers.served_answers import ServedAnswerer
from alignkit.training.memory import is_out_of_memory

ANSWERS = "answers.jsonl"
DRAWN = "drawn.jsonl"
REASONS = "rationales.jsonl"


def answers_of_teacher(
    recipe: Recipe, run: RunDirectory, teaching: Teaching, prepared: Prepared, tokenizer: Any
) -> Prepared:
    """The training rows with the teacher's answers; the held-out rows stay the data's."""
    options = recipe.distill.answers
    rows = _view(prepared)
    asked = list(questions(rows))
    drawing = Drawing(
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=recipe.seed,
    )
    journal = Journal(run.path / DRAWN)
    theirs = teaching.tokenizer() if teaching.named is not None else tokenizer
    prompts = [_asked(one, theirs) for one in asked]
    _draw(recipe, teaching, theirs, prompts, drawing, journal, batch=options.batch, key="distill.answers.batch")
    found = usable_answers(journal, len(asked), keep_unfinished=False, instead=_longer("answers"))
    for line in found.lines():
        log.say(line)
    file = run.path / ANSWERS
    keep(
        (answered(replace(asked[number], known=None), text) for number, text in found.kept),
        isinstance(asked[0].prompt, str),
        file,
    )
    done = prepare(section_of(recipe.data, file), tokenizer, digest_file=file_digest)
    report = done.report
    report.held_out, report.ready = prepared.report.held_out, prepared.report.ready
    report.notes.append(f"the answers are the teacher's; held-out rows keep the data's ({file.name} of the run)")
    run.mark("answers", found.figures())
    return replace(done, held_out=prepared.held_out, skipped=prepared.skipped)


def steps_of_teacher(
    recipe: Recipe, run: RunDirectory, teaching: Teaching, prepared: Prepared, tokenizer: Any
) -> PreparedSteps:
    """Labels and rationales as pairs: the rationales of the data's column, or the teacher's."""
    options = recipe.distill.steps
    rows = _view(prepared)
    asked = list(questions(rows))
    if bare := next((one.where for one in asked if not one.answer.strip()), None):
        what = "ends without an answer in words, so there is no label to learn"
        raise RequestError(Fault(where=bare, what=what, instead="Leave the row out."))
    known = steps.rationales(recipe.data, tokenizer, options.rationale, digest_file=file_digest)
    reasons = steps.given_rationales(asked, known, options.rationale)
    if reasons is None:
        asked, reasons = _reasons(recipe, run, teaching, rows, asked, tokenizer)
    else:
        log.say(f"rationales come from the data's column `{options.rationale}`")
    file = run.path / steps.FILE
    steps.write_pairs(asked, reasons, options, file)
    return steps.prepared_pairs(recipe.data, tokenizer, file, prepared, options, digest_file=file_digest)


def _reasons(
    recipe: Recipe, run: RunDirectory, teaching: Teaching, rows: View, asked: list[Question], tokenizer: Any
) -> tuple[list[Question], list[str]]:
    """The rows that the teacher gave a reason for, and the reasons."""
    options = recipe.distill.steps
    if teaching.named is None and recipe.distill.server.url is None:
        raise RequestError(
            Fault(
                where="distill.steps.rationale",
                what=f"the rows have no column `{options.rationale}`, and no teacher is named to write one",
                instead="Give the rows such a column, or write teacher=…",
            )
        )
    log.say("the teacher writes a rationale for each row")
    theirs = teaching.tokenizer() if teaching.named is not None else tokenizer
    prompts = [reasoned(document, theirs, options.instruction).asked for document in documents(rows)]
    drawing = Drawing(max_new_tokens=options.max_new_tokens, temperature=options.temperature, seed=recipe.seed)
    journal = Journal(run.path / REASONS)
    _draw(recipe, teaching, theirs, prompts, drawing, journal, batch=options.batch, key="distill.steps.batch")
    found = usable_answers(journal, len(prompts), keep_unfinished=False, instead=_longer("steps"))
    for line in found.lines():
        log.say(line)
    run.mark("answers", found.figures())
    return [asked[number] for number, _ in found.kept], [text for _, text in found.kept]


def _draw(
    recipe: Recipe,
    teaching: Teaching,
    tokenizer: Any,
    prompts: Sequence[Asked],
    drawing: Drawing,
    journal: Journal,
    *,
    batch: int,
    key: str,
) -> None:
    """Fill the journal; the teacher is in memory only as long as it writes."""
    if all(number in journal for number in range(len(prompts))):
        return
    if len(journal):
        log.say(f"going on: {len(journal):,} of {len(prompts):,} prompts are answered")
    server = recipe.distill.server
    answerer: Answerer
    if server.url is not None:
        name = server.model or (teaching.named.name if teaching.named is not None else None)
        if name is None:
            raise RequestError(
                Fault(
                    where="distill.server.model",
                    what="nothing says what the server calls the model",
                    instead="Write distill.server.model=…",
                )
            )
        answerer = ServedAnswerer(server, tokenizer, drawing, name=name, where="distill.server")
        draw_answers(answerer, prompts, journal)
        return
    loaded = load(teaching.section, teaching.quantization)
    answerer = LocalAnswerer(loaded.model, loaded.tokenizer, drawing, batch=batch)
    try:
        draw_answers(answerer, prompts, journal)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"The memory does not hold {batch} answers at a time. Write {key}={max(1, batch // 2)}: the run goes on "
            "where it stopped, and the answers stay the same."
        ) from error
    del loaded, answerer
    gc.collect()


def _longer(section: str) -> str:
    return f"Write a larger distill.{section}.max_new_tokens, or take a teacher that comes to an end."


def _asked(question: Question, tokenizer: Any) -> Asked:
    ids = prompt_ids(tokenizer, question.prompt, question.tools)
    if not ids:
        raise RequestError(Fault(where=question.where, what="the prompt holds no token", instead="Leave the row out."))
    return Asked(prompt=question.prompt, ids=ids, where=question.where, tools=question.tools)


def _view(prepared: Prepared) -> View:
    assert isinstance(prepared.train, View)
    return prepared.train
