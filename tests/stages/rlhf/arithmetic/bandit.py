"""A language so small that all its answers can be listed: what the best policy is, is known exactly.

Two words and an end token; an answer has up to three tokens, so there are 15 of them, of unequal lengths. A policy is a
table: a row of logits for each of the 7 beginnings that an answer may have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

END, LONGEST, WORDS = 0, 3, 3
BEGINNINGS = [words for size in range(LONGEST) for words in product(range(1, WORDS), repeat=size)]
ANSWERS = [
    answer
    for size in range(1, LONGEST + 1)
    for answer in product(range(WORDS), repeat=size)
    if END not in answer[:-1] and (size == LONGEST or answer[-1] == END)
]


@dataclass
class Drawn:
    """Answers end to end: which of :data:`ANSWERS`, and the state and the token at each position."""

    answers: Tensor
    lengths: Tensor
    states: Tensor
    tokens: Tensor


@dataclass
class Bandit:
    """Rewards of all answers and a reference policy, made up from a seed."""

    seed: int = 0
    reference: Tensor = field(init=False)
    rewards: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.reference = torch.randn(len(BEGINNINGS), WORDS, generator=generator).mul(0.5).log_softmax(-1)
        self.rewards = torch.randn(len(ANSWERS), generator=generator)
        self.generator = generator

    def positions(self, answers: Tensor) -> Drawn:
        """The tokens of these answers, and the states that they were written in."""
        chosen = [ANSWERS[at] for at in answers.tolist()]
        states = [BEGINNINGS.index(answer[:place]) for answer in chosen for place in range(len(answer))]
        return Drawn(
            answers=answers,
            lengths=torch.tensor([len(answer) for answer in chosen]),
            states=torch.tensor(states),
            tokens=torch.tensor([token for answer in chosen for token in answer]),
        )

    def log_probs(self, logits: Tensor) -> Tensor:
        """(15,) log-probability of every answer under a policy's table of logits."""
        everything = self.positions(torch.arange(len(ANSWERS)))
        per_token = logits.log_softmax(-1)[everything.states, everything.tokens]
        return torch.stack([part.sum() for part in per_token.split(everything.lengths.tolist())])

    def draw(self, logits: Tensor, many: int) -> Drawn:
        """``many`` answers of the policy."""
        probabilities = self.log_probs(logits).exp()
        return self.positions(torch.multinomial(probabilities, many, replacement=True, generator=self.generator))

    def optimum(self, beta: float) -> Tensor:
        """(15,) log-probabilities of the policy that maximizes E[reward] - β·KL(π ‖ reference): it is
        reference·exp(reward/β), brought to sum 1 (Rafailov et al. 2023, eq. 4)."""
        return (self.log_probs(self.reference) + self.rewards / beta).log_softmax(0)

    def token_optimum(self, beta: float, backward: bool = False, scale: float = 1.0) -> Tensor:
        """(15,) log-probabilities of the policy where a KL of single tokens in the loss comes to rest: no token answers
        for the KL of those after it. ``scale``: of the rewards.

        With Q the expected reward after a token, of that very policy: reference·exp(Q/β) for KL(π ‖ reference). For
        KL(reference ‖ π), k3's, no gradient by a logit means π·(Q - E[Q]) = β·(π - reference), so that
        π = β·reference/(λ - Q) with the λ that makes it sum to 1 (``backward``).
        """
        table = torch.zeros_like(self.reference, dtype=torch.float64)
        worth: dict[tuple[int, ...], float] = {
            answer: scale * float(reward) for answer, reward in zip(ANSWERS, self.rewards, strict=True)
        }
        for at in reversed(range(len(BEGINNINGS))):  # longer ones first
            q = torch.tensor([worth[(*BEGINNINGS[at], token)] for token in range(WORDS)], dtype=torch.float64)
            reference = self.reference[at].double().exp()
            if backward:
                low, high = float(q.max()), float(q.max()) + beta
                for _ in range(100):
                    middle = (low + high) / 2
                    low, high = (middle, high) if float((beta * reference / (middle - q)).sum()) > 1 else (low, middle)
                policy = beta * reference / (high - q)
            else:
                policy = (reference.log() + q / beta).softmax(0)
            table[at], worth[BEGINNINGS[at]] = policy.log(), float((policy * q).sum())
        return self.log_probs(table)

    def objective(self, logits: Tensor, beta: float) -> float:
        """E[reward] - β·KL(π ‖ reference), exactly."""
        found = self.log_probs(logits.detach())
        kl = (found.exp() * (found - self.log_probs(self.reference))).sum()
        return float((found.exp() * self.rewards).sum() - beta * kl)

    def best(self, beta: float) -> float:
        """The objective of the optimum, its normalizing constant: β·log Σ reference·exp(reward/β)."""
        return float(beta * (self.log_probs(self.reference) + self.rewards / beta).logsumexp(0))
