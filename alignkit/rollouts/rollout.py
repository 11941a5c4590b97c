"""What a rollout holds: the answers of one drawing with their rewards, and numbers of every token of theirs.

Letters: A answers, N tokens of all answers, answer by answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from alignkit.errors import RunError
from alignkit.runs.atomic import write_bytes
from alignkit.training.answer_scores import sum_by_answer

VECTORS = ("policy", "reference", "values", "entropy", "advantages", "returns")
"""Fields of a rollout with one number a token."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """One answer of the policy."""

    prompt: int
    """Number of the prompt in its set."""
    sample: int
    """Which of the prompt's answers, from 0."""
    where: str
    """For people: where the prompt stands in its source."""
    trunk: list[int]
    """Tokens of the prompt."""
    ids: list[int]
    """Tokens of the answer, the one that ended it among them. Empty where the prompt fills the model's context."""
    text: str
    """The answer without special tokens."""
    finished: bool
    """Whether the policy ended it itself, before the limit did."""
    reward: float = float("nan")
    """The sum of the rewards. NaN: not judged, or a reward gave none and that is allowed."""
    parts: dict[str, float] = field(default_factory=dict)
    """Each reward by itself, without its weight."""
    problem: str | None = None
    """What was wrong with the judging of it."""


_SAID = tuple(one.name for one in fields(Rolled) if one.name not in ("trunk", "ids"))


@dataclass
class Rollout:
    """Answers, prompt by prompt (those of one prompt stand together), and what is known of their tokens.

    Vectors are (N,) fp32 on the CPU, answer by answer; the place of an answer's tokens follows from ``tokens``.
    """

    number: int
    """Which rollout of the run, from 0."""
    answers: list[Rolled]
    tokens: Tensor
    """(A,) int64: tokens of each answer."""
    policy: Tensor | None = None
    """Log-probabilities under the policy that drew them, nats."""
    reference: Tensor | None = None
    """Log-probabilities under the reference, nats."""
    values: Tensor | None = None
    """What the value head expected before each token."""
    entropy: Tensor | None = None
    """Of the policy's distribution at each token, nats."""
    advantages: Tensor | None = None
    returns: Tensor | None = None

    @classmethod
    def of(cls, number: int, answers: Sequence[Rolled]) -> Rollout:
        """A rollout of which nothing but its answers is known."""
        return cls(number, list(answers), torch.tensor([len(one.ids) for one in answers], dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def rewards(self) -> Tensor:
        """(A,) float32; NaN where an answer got none."""
        return torch.tensor([one.reward for one in self.answers], dtype=torch.float32)

    @property
    def groups(self) -> Tensor:
        """(A,) int64, ascending: which of the rollout's prompts an answer belongs to, from 0."""
        found = [len(list(run)) for _, run in groupby(self.answers, key=lambda one: one.prompt)]
        return torch.repeat_interleave(torch.arange(len(found)), torch.tensor(found, dtype=torch.int64))

    @property
    def kl(self) -> Tensor | None:
        """(A,) log π(answer) - log π_ref(answer) in nats: of one answer the estimator k1 (Schulman 2020)."""
        if self.policy is None or self.reference is None:
            return None
        return sum_by_answer(self.policy - self.reference, self.tokens)

    def pick(self, values: Tensor, numbers: Sequence[int]) -> Tensor:
        """Of values (N,) those of the tokens of some answers (places in ``answers``), one answer after the other."""
        ends = self.tokens.cumsum(0).tolist()
        starts = [0, *ends]
        return torch.cat([values[:0], *(values[starts[number] : ends[number]] for number in numbers)])

    def save(self, path: Path) -> None:
        """Write it into one safetensors file; `load` gives back the same bits. Raises RunError when it cannot."""
        from safetensors.torch import save

        trunks = [next(run).trunk for _, run in groupby(self.answers, key=_asked)]
        sizes = [len(list(run)) for _, run in groupby(self.answers, key=_asked)]
        tensors = {
            "tokens": self.tokens,
            "ids": _joined([one.ids for one in self.answers]),
            "trunks": _joined(trunks),
            "trunk_tokens": torch.tensor([len(trunk) for trunk in trunks], dtype=torch.int64),
            "trunk_answers": torch.tensor(sizes, dtype=torch.int64),
        }
        tensors |= {name: held for name in VECTORS if (held := getattr(self, name)) is not None}
        about = {
            "number": self.number,
            "answers": [{name: getattr(one, name) for name in _SAID} for one in self.answers],
        }
        data = save({name: held.contiguous() for name, held in tensors.items()}, {"rollout": json.dumps(about)})
        write_bytes(path, data)

    @classmethod
    def load(cls, path: Path) -> Rollout:
        """What `save` wrote. Raises RunError where the file is missing or damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                held: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                about = json.loads(file.metadata()["rollout"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise RunError(f"The rollout {path} cannot be read: {error}.") from error
        trunks = held["trunks"].split(held["trunk_tokens"].tolist())
        own = [
            trunk.tolist()
            for trunk, size in zip(trunks, held["trunk_answers"].tolist(), strict=True)
            for _ in range(size)
        ]
        ids = [part.tolist() for part in held["ids"].split(held["tokens"].tolist())]
        answers = [
            Rolled(**said, trunk=list(trunk), ids=mine)
            for said, trunk, mine in zip(about["answers"], own, ids, strict=True)
        ]
        return cls(about["number"], answers, held["tokens"], **{name: held[name] for name in VECTORS if name in held})


def _asked(one: Rolled) -> tuple[int, tuple[int, ...]]:
    """What two answers to the same prompt have in common."""
    return one.prompt, tuple(one.trunk)


def _joined(lists: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([one for some in lists for one in some], dtype=torch.int64)
