"""How far the policy is from its reference, estimated from the tokens that were drawn.

With d = log π(token) - log π_ref(token), the token drawn from π (Schulman 2020, "Approximating KL divergence"):
k1 = d, unbiased and of either sign; k2 = d²/2, biased, of low variance, never negative; k3 = e^-d - 1 + d, unbiased and
never negative.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from alignkit.stages.dpo.losses.functions import exponential

Estimator = Literal["k1", "k2", "k3"]


def estimate(log_probs: Tensor, reference: Tensor, estimator: Estimator = "k1") -> Tensor:
    """(N,) nats a token: the estimate of KL(π ‖ π_ref) at each token. Beyond d = -30 k3 goes on as its tangent."""
    difference = log_probs - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return exponential(-difference) - 1 + difference


def penalty(new: Tensor, old: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """(N,) with gradient: the KL as a term of the loss; the tokens were drawn from ``old``.

    What counts in a loss is the expected gradient (Tang and Munos 2025; Liu et al. 2025). Where old = new: k2 has that
    of KL(π ‖ π_ref); k3 has that of KL(π_ref ‖ π), and is what GRPO takes (Shao et al. 2024, eq. 4); k1 alone has none,
    since the mean of ∇log π is 0, so it is multiplied by π_new/π_old, which gives the gradient of KL(π ‖ π_ref) and
    stays unbiased after the policy has moved (DeepSeek-V3.2, section 3.1, corrects k3 in the same way).

    All of them are of the distribution of one token. What a token does to the KL of those after it only a KL in the
    reward knows: there k1 leads to the policy π_ref·exp(score/β) of whole answers, and in the loss none of them does.
    """
    found = estimate(new, reference, estimator)
    return exponential(new - old) * found if estimator == "k1" else found
