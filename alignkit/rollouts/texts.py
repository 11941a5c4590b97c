"""RUN/rollouts.jsonl: what the policy said, for a person to read. One line a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from alignkit.data.prompts import Prompts
from alignkit.errors import RunError
from alignkit.rollouts.rollout import Rollout
from alignkit.runs.atomic import json_bytes, write_bytes

FILE = "rollouts.jsonl"


class RolloutTexts:
    """Appends prompts, answers, their rewards and their KL."""

    def __init__(self, path: Path, *, every: int, sampling: Mapping[str, Any]) -> None:
        """``every``: of so many rollouts one is kept, the first among them; 0: none. ``sampling``: how answers are
        drawn (seed, temperature, top_p, max_new_tokens), for each line."""
        self.path, self.every, self.sampling = path, every, dict(sampling)

    def keep(self, rollout: Rollout, prompts: Prompts, *, step: int) -> None:
        """Write the rollout if it is one of those that are kept. ``step``: optimizer steps done before it.

        Raises RunError where the file cannot be written.
        """
        if not self.every or rollout.number % self.every:
            return
        data = b"".join(json_bytes(line) for line in self._lines(rollout, prompts, step))
        try:
            with self.path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise RunError(f"{self.path} could not be written: {error.strerror or error}.") from error

    def truncate(self, rollouts: int) -> None:
        """Cut what a resumed run will do again: lines of rollouts from number ``rollouts`` on, and half a line."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                number = json.loads(line)["rollout"]
            except (ValueError, TypeError, KeyError):
                continue
            if number < rollouts and line.endswith(b"\n"):
                kept.append(line)
        write_bytes(self.path, b"".join(kept))

    def _lines(self, rollout: Rollout, prompts: Prompts, step: int) -> Iterator[dict[str, Any]]:
        kl = None if rollout.kl is None else rollout.kl.tolist()
        at = 0
        for number, run in groupby(rollout.answers, key=lambda one: one.prompt):
            answers = []
            for one in run:
                said: dict[str, Any] = {"text": one.text, "reward": one.reward}
                if len(one.parts) > 1:
                    said["parts"] = one.parts
                said |= {"tokens": len(one.ids), "finished": one.finished}
                if kl is not None:
                    said["kl"] = kl[at]
                if one.problem is not None:
                    said["problem"] = one.problem
                answers.append(said)
                at += 1
            yield {
                "rollout": rollout.number,
                "step": step,
                "where": prompts[number].where,
                "prompt": prompts[number].prompt,
                "answers": answers,
                "number": number,
                "sampling": self.sampling,
            }
