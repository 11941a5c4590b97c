"""`python -m alignkit.stages.merge.scoring`: one model scored in a process of its own.

A request as JSON on stdin, the scores as JSON on stdout; the story goes to stderr. The process ends with the model, so
that a merge of many parents never holds two of them in memory, and the merge itself holds none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from alignkit.config.sections import Data, DataSource, Evaluation, Model
from alignkit.errors import AlignkitError, RunError


def scored_apart(model: Model, data: Data, evaluation: Evaluation) -> dict[str, Any]:
    """`Scores.as_dict` of a model, computed in another process. Raises RunError with the sentence it ended with."""
    request = {"model": asdict(model), "data": asdict(data), "evaluation": asdict(evaluation)}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        answer, _ = process.communicate(json.dumps(request))
    except BaseException:  # a signal: nobody waits for the answer any more
        process.kill()
        process.wait()
        raise
    try:
        found = json.loads(answer)
    except ValueError:
        found = {"error": f"its process ended with code {process.returncode}"}
    if "error" in found:
        raise RunError(f"{model.name} could not be evaluated: {found['error']}")
    scores: dict[str, Any] = found["scores"]
    return scores


def main() -> None:
    """Answer one request."""
    from alignkit.console.libraries import kept_quiet
    from alignkit.console.streams import stdout_to_stderr

    with stdout_to_stderr(), kept_quiet():
        try:
            answer: dict[str, Any] = {"scores": _scores(json.load(sys.stdin))}
        except AlignkitError as error:
            answer = {"error": str(error)}
    print(json.dumps(answer))


def _scores(request: dict[str, Any]) -> dict[str, Any]:
    from alignkit.evaluation.recipe import EvalRecipe
    from alignkit.evaluation.single import score
    from alignkit.models.context import context_length
    from alignkit.models.locating import locate
    from alignkit.runs.digests import file_digest

    sources = [DataSource(**one) for one in request["data"].pop("sources")]
    recipe = EvalRecipe(
        model=Model(**request["model"]),
        data=Data(**request["data"], sources=sources),
        evaluation=Evaluation(**request["evaluation"]),
    )
    context = context_length(locate(recipe.model))
    if context is not None:
        recipe.data.max_length = min(recipe.data.max_length, context)
    return score(recipe, digest_file=file_digest).as_dict()


if __name__ == "__main__":
    main()
