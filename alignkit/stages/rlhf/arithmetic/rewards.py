"""From what the rewards said of an answer to what the policy is paid: scaled, clipped, penalised, and put on tokens.

The order: :func:`scaled`, :func:`clipped`, :func:`without_end` or :func:`overlong` (which no clipping swallows then),
and last the KL: :func:`token_rewards` for algorithms that credit tokens, :func:`answer_rewards` for those that credit
answers.
"""

from __future__ import annotations

from torch import Tensor

from alignkit.stages.rlhf.arithmetic.moments import RunningMoments
from alignkit.stages.rlhf.arithmetic.ragged import check, last, sums


def scaled(scores: Tensor, moments: RunningMoments) -> Tensor:
    """(A,) scores over the standard deviation of moments that have seen them already; their signs stay.

    By running moments: Engstrom et al. 2020, section 2 (reward scaling); Zheng et al. 2023 ("Secrets of RLHF in large
    language models, part I"), section 5.3.1. By those of the rollout alone: ``RunningMoments.of(scores)``.
    """
    return scores / moments.std


def clipped(scores: Tensor, limit: float) -> Tensor:
    """(A,) scores kept within ±``limit`` (Zheng et al. 2023, section 5.3.1). NaN stays NaN."""
    return scores.clamp(-limit, limit)


def without_end(scores: Tensor, finished: Tensor, penalty: float) -> Tensor:
    """(A,) scores less ``penalty`` where an answer was cut off before its end token (``finished`` (A,) bool).

    Ziegler et al. 2019 (a fixed low score where there is no place to cut); as a deduction: Huang et al. 2024 ("The
    N+ implementation details of RLHF with PPO"), detail on the EOS trick.
    """
    return scores - penalty * (~finished).to(scores.dtype)


def overlong(lengths: Tensor, *, longest: int, cache: int) -> Tensor:
    """(A,) in [-1, 0], to be added to scores: DAPO's soft punishment of long answers (Yu et al. 2025, eq. 13).

    0 up to ``longest`` - ``cache`` tokens, then falling linearly to -1 at ``longest`` and beyond; float32.

    Raises:
        ValueError: ``cache`` is not within 1 and ``longest``.
    """
    if not 1 <= cache <= longest:
        raise ValueError(f"a punished stretch of {cache} tokens does not fit into answers of {longest}")
    return ((longest - cache - lengths).float() / cache).clamp(-1, 0)


def token_rewards(scores: Tensor, lengths: Tensor, kl: Tensor | None = None, coefficient: float = 0.0) -> Tensor:
    """(N,) the reward of each token: -coefficient·kl at each, and the answer's score at its last one.

    Ziegler et al. 2019, eq. 2, token by token; Ouyang et al. 2022, eq. 2. ``kl`` (N,) nats, of any estimator.
    """
    found = scores.new_zeros(int(lengths.sum())) if kl is None else -coefficient * kl.to(scores.dtype)
    check(found, lengths)
    return found.index_add(0, last(lengths), scores)


def answer_rewards(scores: Tensor, lengths: Tensor, kl: Tensor | None = None, coefficient: float = 0.0) -> Tensor:
    """(A,) the score less the coefficient times the KL summed over the answer (Ahmadian et al. 2024)."""
    return scores if kl is None else scores - coefficient * sums(kl.to(scores.dtype), lengths)
