"""The teacher-cache stage: a teacher reads every row once; what it says at the tokens with loss goes to the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from alignkit.console import log
from alignkit.console.progress import counting, size
from alignkit.data.batching import Collator, flatten, pad
from alignkit.data.prepare import prepare
from alignkit.errors import Fault, RequestError, RunError
from alignkit.evaluation.sampling import pad_id
from alignkit.evaluation.templated import templated_tokenizer, with_template
from alignkit.models.loading import load
from alignkit.models.sources import context_length, locate
from alignkit.runs.atomic import write_json
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.runs.outcome import Outcome
from alignkit.stages.teacher_cache.check import too_many
from alignkit.stages.teacher_cache.recipe import Recipe
from alignkit.teachers.cache.faithfulness import Faithfulness
from alignkit.teachers.cache.layout import Layout
from alignkit.teachers.cache.rows import Wanted, wanted_rows
from alignkit.teachers.cache.shard import FORMAT
from alignkit.teachers.cache.writing import CacheWriter, listing, most_bytes
from alignkit.teachers.cached import TOKENIZER
from alignkit.teachers.circumstances import circumstances, model_digest
from alignkit.teachers.live import LiveTeacher, MeanTeacher
from alignkit.teachers.recipe import CACHE, HEAD
from alignkit.teachers.served import ServedTeacher
from alignkit.teachers.teacher import Teacher
from alignkit.training.memory import is_out_of_memory

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 16384}
"""Of a forward pass without gradients; a longer row goes alone."""


def run(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Run the stage in its directory; called by the journey."""
    try:
        return _run(recipe, run)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            "The memory does not hold the teacher and its longest row. Write a smaller data.max_length, or "
            "quantization=nf4; shards that are written stay."
        ) from error


def _run(recipe: Recipe, run: RunDirectory) -> Outcome:
    source = locate(recipe.teacher)
    log.say(source.said)
    limit = context_length(source)
    if limit is not None and limit < recipe.data.max_length:
        log.say(f"rows of at most {limit} tokens: the teacher reads no more")
        recipe.data.max_length = limit
    now = recipe.data
    tokenizer, _ = templated_tokenizer(recipe.teacher, source, now)
    prepared = prepare(now, tokenizer, digest_file=file_digest, held_out_rows=0)
    for line in prepared.report.lines():
        log.say(line)
    for one in prepared.skipped:
        one.write_skipped(run.path / "skipped.jsonl")
    wanted = wanted_rows(prepared.train)
    if not len(wanted):
        what = "no row has a token with loss, so there is nothing to ask a teacher"
        raise RequestError(Fault(where="data", what=what))
    # Ids lie below what the tokenizer knows; a model's head may be wider, which is known when it is loaded.
    _say_size(wanted, _layout(recipe, max(len(tokenizer), 1), check=False), run.path)
    teacher, collate, at_once, resolved = _teacher(recipe, tokenizer)
    layout = _layout(recipe, teacher.vocabulary)
    directory = run.path / CACHE
    directory.mkdir(exist_ok=True)
    writer = CacheWriter(
        directory, layout, prepared.train, wanted, seed=recipe.seed, collate=collate, tokens_at_once=at_once
    )
    found = _faithful(writer, teacher, run)
    log.say(found.line())
    if layout.kind == "sampled":
        log.say(f"about {size(int(found.bytes_per_position * int(wanted.positions.sum())))} in all")
    _write(writer, teacher, wanted)
    return _finish(recipe, run, writer, wanted, tokenizer, found, resolved, prepared.report.as_dict())


def _layout(recipe: Recipe, vocabulary: int, *, check: bool = True) -> Layout:
    """How the cache lies. Raises RequestError for more entries than tokens, and for more bytes than are allowed."""
    options = recipe.cache
    entries = vocabulary if options.entries == "all" else options.entries
    if options.kind == "top-k" and entries > vocabulary:
        if check:
            raise RequestError(too_many(entries, vocabulary))
        entries = vocabulary
    layout = Layout(
        kind=options.kind, entries=entries, bits=options.bits, vocabulary=vocabulary, temperature=options.temperature
    )
    if options.max_bytes is not None and layout.most_bytes > options.max_bytes:
        fitting = max(1, (options.max_bytes - layout.fixed_bytes) // layout.entry_bytes)
        raise RequestError(
            Fault(
                where="cache.max_bytes",
                what=f"{entries:,} entries of {layout.entry_bytes} bytes would take up to {layout.most_bytes:,} bytes "
                f"a token, and {options.max_bytes} are allowed",
                instead=f"Write cache.entries={fitting} or fewer cache.bits, or allow more (null: no limit).",
            )
        )
    return layout


def _say_size(wanted: Wanted, layout: Layout, place: Path) -> None:
    """How large it will be, before it starts. Raises RunError where the disk has no room for it."""
    positions, most = int(wanted.positions.sum()), most_bytes(wanted, layout)
    exactly = "" if layout.kind == "top-k" else "at most "
    log.say(
        f"{positions:,} tokens with loss in {len(wanted):,} rows: {exactly}{size(most)}, "
        f"{most / positions:.0f} bytes a token"
    )
    free = shutil.disk_usage(place).free
    if layout.kind == "top-k" and most > free:
        raise RunError(f"The cache takes {size(most)}, and the disk of {place} has {size(free)} left.")


def _teacher(recipe: Recipe, tokenizer: Any) -> tuple[Teacher, Collator, int, dict[str, Any]]:
    """Who is asked, how rows are laid out for it, how many tokens at once, and what every `auto` became."""
    server = recipe.cache.server
    if server.url is not None:
        served = ServedTeacher(server, tokenizer, name=server.model or recipe.teacher.name, entries=_count(recipe))
        served.require_log_probs()
        return served, pad(pad_id(tokenizer)), TOKENS_AT_ONCE["cpu"], {"server.model": served.name}
    first = _live(recipe, recipe.teacher)
    others = [_live(recipe, one) for one in recipe.cache.teachers]
    live: LiveTeacher | MeanTeacher = first
    if others:
        live = MeanTeacher(
            [first, *others],
            [recipe.cache.weight, *(one.weight for one in recipe.cache.teachers)],
            where="cache.teachers",
        )
    collate = flatten() if live.isolates else pad(pad_id(tokenizer))
    at_once = TOKENS_AT_ONCE.get(first.device.type, TOKENS_AT_ONCE["cpu"])
    return live, collate, at_once, first.resolved


def _live(recipe: Recipe, section: Any) -> LiveTeacher:
    """A teacher's model, with rows for the tokens of a template that is installed."""
    source = locate(section)
    loaded = load(section, recipe.quantization, source=source)
    _, installed = templated_tokenizer(section, source, recipe.data)
    return LiveTeacher(loaded if installed is None else with_template(loaded, installed))


def _count(recipe: Recipe) -> int:
    entries = recipe.cache.entries
    assert entries != "all"  # refused for servers
    return entries


def _faithful(writer: CacheWriter, teacher: Teacher, run: RunDirectory) -> Faithfulness:
    """Found once: a run that goes on does not ask again."""
    known = run.read_mark("faithful")
    if known is not None:
        return Faithfulness(**known)
    found = writer.compare(teacher)
    run.mark("faithful", found.as_dict())
    return found


def _write(writer: CacheWriter, teacher: Teacher, wanted: Wanted) -> None:
    missing = writer.missing()
    if len(missing) < len(writer.shards):
        log.say(f"going on: {len(writer.shards) - len(missing)} of {len(writer.shards)} shards are written")
    left = sum(int(wanted.positions[writer.shards[number]].sum()) for number in missing)
    with counting("tokens", left) as progress:
        writer.write(teacher, progress)


def _finish(
    recipe: Recipe,
    run: RunDirectory,
    writer: CacheWriter,
    wanted: Wanted,
    tokenizer: Any,
    found: Faithfulness,
    resolved: dict[str, Any],
    data: dict[str, Any],
) -> Outcome:
    """Tokenizer and head, which makes it a cache; and what is said of it."""
    tokenizer.save_pretrained(writer.directory / TOKENIZER)
    shards = listing(writer.directory, len(writer.shards), file_digest)
    whole, positions = sum(one["bytes"] for one in shards), int(wanted.positions.sum())
    figures = {
        "rows": len(wanted),
        "positions": positions,
        "bytes": whole,
        "bytes_per_token": whole / positions,
        "shards": len(shards),
        "faithfulness": found.as_dict(),
    }
    head = {
        "format": FORMAT,
        "layout": writer.layout.as_dict(),
        "circumstances": circumstances(recipe.data, tokenizer, digest_file=file_digest).as_dict(),
        "teachers": [
            {"name": one.name, "digest": model_digest(one, file_digest)}
            for one in (recipe.teacher, *recipe.cache.teachers)
        ],
        "seed": recipe.seed,
        **{name: figures[name] for name in ("rows", "positions", "faithfulness")},
    }
    write_json(writer.directory / HEAD, {**head, "shards": shards})
    log.say(f"{size(whole)} in {len(shards)} shard{'s' * (len(shards) > 1)}, {whole / positions:.1f} bytes a token")
    headline = {"name": "bytes/token", "after": whole / positions}
    digests = {f"{CACHE}/{one['name']}": one["sha256"] for one in shards}
    return Outcome(
        result=writer.directory,
        metrics={"cache": figures, "data": data, "headline": headline},
        resolved=resolved,
        digests=digests,
    )
