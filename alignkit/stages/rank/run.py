"""The rank stage: answers are drawn, judged and paired. What is done is kept line by line, so that it can be cut off.

Two models never stand in memory together: all answers are drawn before the first is judged.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

from alignkit.console import log
from alignkit.console.progress import counting
from alignkit.data.prompts import Asked, PreparedPrompts, Prompts, prepare_prompts
from alignkit.errors import Fault, RequestError, RunError
from alignkit.evaluation.sampling import as_sample, pad_id, sample_ids
from alignkit.evaluation.stopping import stop_tokens
from alignkit.evaluation.templated import templated_tokenizer, with_template
from alignkit.models.loading import load
from alignkit.models.sources import context_length, locate
from alignkit.rewards.fitting import judged, prompt_faults
from alignkit.rewards.judged import Judged
from alignkit.rewards.mixture import Rewards
from alignkit.runs.atomic import json_bytes, write_bytes
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.runs.journal import Journal
from alignkit.runs.outcome import Outcome
from alignkit.stages.rank import report
from alignkit.stages.rank.pairing import Answer, pair
from alignkit.stages.rank.recipe import Recipe
from alignkit.training.memory import is_out_of_memory

PAIRS = "pairs.jsonl"
SAMPLES = "samples.jsonl"
SCORES = "scores.jsonl"


def run(recipe: Recipe, run: RunDirectory) -> Outcome:
    """Run the stage in its directory; called by the journey."""
    source = locate(recipe.model)
    log.say(source.said)
    limit = context_length(source)
    if limit is not None and limit - recipe.rank.max_new_tokens < recipe.data.max_length:
        recipe.data.max_length = limit - recipe.rank.max_new_tokens
        log.say(f"prompts of at most {recipe.data.max_length} tokens: the model reads {limit}, answers included")
    tokenizer, installed = templated_tokenizer(recipe.model, source, recipe.data)
    prepared = prepare_prompts(recipe.data, tokenizer, digest_file=file_digest)
    for line in prepared.report.lines():
        log.say(line)
    _keep_skipped(prepared, run)
    _require_fitting(prepared.prompts, recipe)
    samples, scores = Journal(run.path / SAMPLES), Journal(run.path / SCORES)
    missing = [number for number in range(len(prepared.prompts)) if number not in samples]
    resolved: dict[str, Any] = run.read_mark("resolved") or {}
    if missing:
        if len(samples):
            log.say(f"going on: {len(samples):,} of {len(prepared.prompts):,} prompts are answered")
        loaded = load(recipe.model, recipe.quantization, source=source)
        if installed is not None:
            loaded = with_template(loaded, installed)
        resolved = loaded.resolved
        run.mark("resolved", resolved)
        _sample(recipe, loaded.model, tokenizer, prepared.prompts, missing, samples)
        del loaded
        release_memory()
    _judge(recipe, prepared.prompts, samples, scores)
    figures = _write_pairs(recipe, run, prepared.prompts, samples, scores)
    metrics: dict[str, Any] = {"rank": figures, "data": prepared.report.as_dict()}
    metrics["headline"] = {"name": "reward", "after": (figures["reward"] or {}).get("mean")}
    return Outcome(result=run.path / PAIRS, metrics=metrics, resolved=resolved)


def _sample(
    recipe: Recipe, model: Any, tokenizer: Any, prompts: Prompts, missing: Sequence[int], samples: Journal
) -> None:
    """Answers to the prompts that have none yet, a batch of similar length at a time, longest first."""
    options = recipe.rank
    stop, lengths = stop_tokens(model, tokenizer), prompts.lengths
    order = sorted(missing, key=lambda number: -int(lengths[number]))
    together = max(1, options.batch // options.samples)
    log.say(f"drawing {options.samples} answers to each of {len(order):,} prompts")
    with counting("answers", len(order) * options.samples) as progress:
        for start in range(0, len(order), together):
            numbers = order[start : start + together]
            asked = [prompts[number] for number in numbers]
            written = _drawn(
                options.batch,
                model,
                [one.ids for one in asked],
                stop=stop,
                pad_id=pad_id(tokenizer),
                samples=options.samples,
                max_new_tokens=options.max_new_tokens,
                temperature=options.temperature,
                top_p=options.top_p,
                seed=recipe.seed,
                numbers=numbers,
            )
            lines = []
            for number, one, answers in zip(numbers, asked, written, strict=True):
                drawn = [as_sample(tokenizer, ids, stop) for ids in answers]
                told = [{"text": a.text, "tokens": len(a.ids), "finished": a.finished} for a in drawn]
                lines.append({"number": number, "where": one.where, "prompt": one.prompt, "answers": told})
            samples.append(lines)
            progress(len(numbers) * options.samples)


def _drawn(batch: int, model: Any, prompts: list[list[int]], **settings: Any) -> list[list[list[int]]]:
    """`sample_ids`, with a sentence for a device that is too small."""
    try:
        return sample_ids(model, prompts, batch=batch, **settings)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"The memory does not hold {batch} answers at a time. Write rank.batch={max(1, batch // 2)}: the run goes "
            "on where it stopped, and the answers stay the same."
        ) from error


def _judge(recipe: Recipe, prompts: Prompts, samples: Journal, scores: Journal) -> None:
    """Rewards of the answers that have none yet."""
    options = recipe.rank
    missing = [number for number in range(len(prompts)) if number not in scores]
    if not missing:
        return
    # Code was allowed at the command line, or the journey would have refused the recipe before it came here.
    rewards = Rewards.of(
        options.reward,
        allow_code=True,
        batch=options.reward_batch,
        skip=options.on_error == "skip",
        where="rank.reward",
    )
    log.say(f"judging by {', '.join(source.said for source in options.reward)}")
    together = max(1, 4 * options.reward_batch // options.samples)
    failed: list[tuple[Judged, str]] = []
    with counting("judged answers", len(missing) * options.samples) as progress:
        for start in range(0, len(missing), together):
            numbers = missing[start : start + together]
            rows = [
                judged(prompts[number], answer["text"])
                for number, line in zip(numbers, samples.read(numbers), strict=True)
                for answer in line["answers"]
            ]
            found = rewards(rows)
            failed += [(row, problem) for row, problem in zip(rows, found.problems, strict=True) if problem]
            lines = []
            for place, number in enumerate(numbers):
                own = slice(place * options.samples, (place + 1) * options.samples)
                parts = {name: values[own] for name, values in found.parts.items()}
                line = {"number": number, "reward": found.total[own], "parts": parts}
                if any(found.problems[own]):
                    line["problems"] = found.problems[own]
                lines.append(line)
            scores.append(lines)
            progress(len(rows))
    if failed:
        row, problem = failed[0]
        log.warn(f"{len(failed):,} of the answers got no reward; the first ({row.where}): {problem}")
    del rewards
    release_memory()


def _write_pairs(
    recipe: Recipe, run: RunDirectory, prompts: Prompts, samples: Journal, scores: Journal
) -> dict[str, Any]:
    """The pairs as JSON lines; returns the report's figures. Raises RunError where there is no pair."""
    options = recipe.rank
    tally = report.Tally()
    rows: list[bytes] = []
    numbers = range(len(prompts))
    for asked, drawn, graded in zip(prompts, samples.read(numbers), scores.read(numbers), strict=True):
        answers = [
            Answer(one["text"], one["tokens"], one["finished"], float("nan") if reward is None else reward)
            for one, reward in zip(drawn["answers"], graded["reward"], strict=True)
        ]
        found = pair(answers, options.pairs, margin=options.margin, keep_unfinished=options.unfinished == "keep")
        tally.add(answers, graded["parts"], found)
        rows += [json_bytes(_row(asked, better, worse)) for better, worse in found.pairs]
    figures = tally.figures()
    for line in report.lines(figures):
        log.say(line)
    for warning in report.warnings(figures):
        log.warn(warning)
    if not rows:
        raise RunError(
            "No two answers to any prompt can be told apart, so there are no pairs: the lines above say what was left "
            "out. Draw more or more different answers (rank.samples, rank.temperature), let them end "
            f"(rank.max_new_tokens), or take another reward. The answers stand in {samples.path}."
        )
    write_bytes(run.path / PAIRS, b"".join(rows))
    return figures


def _row(asked: Asked, better: Answer, worse: Answer) -> dict[str, Any]:
    """A pair as `data=` reads it: conversations as messages, plain prompts as text."""
    plain = isinstance(asked.prompt, str)
    row: dict[str, Any] = {"prompt": asked.prompt}
    for name, answer in (("chosen", better), ("rejected", worse)):
        row[name] = answer.text if plain else [{"role": "assistant", "content": answer.text}]
    row |= {"chosen_score": better.reward, "rejected_score": worse.reward}
    return row | ({"tools": asked.tools} if asked.tools else {})


def _require_fitting(prompts: Prompts, recipe: Recipe) -> None:
    """What can be known of prompts and rewards before a model is read."""
    faults: list[Fault] = []
    empty = None
    forms = set()
    for one in prompts:
        empty = empty or (one.where if not one.ids else None)
        forms.add(isinstance(one.prompt, str))
    faults += prompt_faults(recipe.rank.reward, prompts, "rank.reward")
    if len(forms) > 1:
        what = "some prompts are conversations and some plain text, and one file of pairs holds one kind"
        faults.append(Fault(where="data", what=what, instead="Rank them apart."))
    if empty is not None:
        what = "the prompt holds no token, so there is nothing to go on from"
        faults.append(Fault(where=empty, what=what, instead="Leave the row out."))
    if faults:
        raise RequestError(faults)


def _keep_skipped(prepared: PreparedPrompts, run: RunDirectory) -> None:
    """Rows that were left out of the data, into the run."""
    if not prepared.skipped:
        return
    file = run.path / "skipped.jsonl"
    file.unlink(missing_ok=True)
    for source in prepared.skipped:
        source.write_skipped(file)
    log.warn(f"the rows that cannot be used stand in {file}")


def release_memory() -> None:
    """Give back what a model took."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
