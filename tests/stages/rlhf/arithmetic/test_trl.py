"""What is ours against TRL's own classes, where TRL has it: losses, and the advantages of a rollout of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.stages.rlhf.arithmetic import ragged
from alignkit.stages.rlhf.arithmetic.groups import level, relative
from alignkit.stages.rlhf.arithmetic.groups import rloo as rloo_advantages
from alignkit.stages.rlhf.arithmetic.rewards import answer_rewards, clipped
from alignkit.stages.rlhf.losses import Scored, Terms, reinforce_plus_plus
from tests.stages.rlhf.arithmetic import trl_losses
from tests.stages.rlhf.arithmetic.making import LENGTHS, Made, tensor
from tests.tiny import build_model, build_tokenizer

CASES: list[tuple[Terms, dict[str, Any]]] = [
    (Terms(), {}),
    (Terms(clip=0.1, clip_high=0.28), {"epsilon_low": 0.1, "epsilon_high": 0.28}),
    (Terms(kl="k3", kl_coefficient=0.3), {"beta": 0.3}),
    (Terms(entropy_coefficient=0.2), {"entropy_coef": 0.2, "_entropy_bonus_enabled": True}),
]


@pytest.mark.parametrize(("terms", "given"), CASES, ids=lambda one: str(one))
@pytest.mark.parametrize("seed", range(3))
def test_the_surrogate_is_that_of_grpo_over_all_tokens(terms: Terms, given: dict[str, Any], seed: int) -> None:
    """TRL's `bnpo` is the mean over tokens; it takes advantages of tokens too."""
    made = Made(LENGTHS, seed)
    old, advantages, reference, entropy = map(tensor, (made.old, made.advantages, made.reference, made.entropy))
    grads, losses, figures = [], [], {}
    for ours in (True, False):
        new = tensor(made.new).requires_grad_()
        if ours:
            scored = Scored(new=new, old=old, advantages=advantages, reference=reference, entropy=entropy)
            loss, figures = reinforce_plus_plus(scored, terms, len(new))
        else:
            loss, theirs = trl_losses.grpo(
                new, old, advantages, made.tokens, reference=reference, entropy=entropy, **given
            )
            assert figures["clip_low"].item() == pytest.approx(theirs["clip_ratio/low_mean"][0])
            assert figures["clip_high"].item() == pytest.approx(theirs["clip_ratio/high_mean"][0])
            assert figures["entropy"].item() == pytest.approx(theirs["entropy"][0])
            if terms.kl:
                assert figures["kl_loss"].item() == pytest.approx(theirs["kl"][0])
        loss.backward()
        losses.append(loss.item())
        grads.append(new.grad)
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    np.testing.assert_allclose(grads[0], grads[1], atol=1e-12)


def test_rloo_s_loss_is_the_clipped_surrogate_of_whole_answers() -> None:
    made = Made(LENGTHS, spread=0.05)
    a = tensor(made.scores)
    for ours in (True, False):
        new = tensor(made.new).requires_grad_()
        if ours:
            whole = Scored(
                new=ragged.sums(new, made.tokens),
                old=ragged.sums(tensor(made.old), made.tokens),
                advantages=a,
            )
            loss, _ = reinforce_plus_plus(whole, Terms(), len(a))
        else:
            loss = trl_losses.rloo(new, tensor(made.old), a, made.tokens)
        loss.backward()
        if ours:
            wanted, grad = loss.item(), new.grad
    assert loss.item() == pytest.approx(wanted, abs=1e-12)
    np.testing.assert_allclose(new.grad, grad, atol=1e-12)


SCORES = [1.0, 0.25, None, 3.0, 2.0, 2.0, 2.0, 2.0, None, None, 0.5, None, -1.0, 4.0, 0.5, 0.0]
SAMPLES = 4


def rollout(kind: str, directory: Path, **options: Any) -> dict[str, Any]:
    """One generation of TRL's trainer on a tiny model, whose answers get :data:`SCORES`.

    Its log-probabilities are made up, so that the reference (beside a beta) differs: also what is returned as
    ``policy`` and ``reference``.
    """
    import trl
    from datasets import Dataset

    trainer_class, config = getattr(trl, f"{kind}Trainer"), getattr(trl, f"{kind}Config")
    made: list[torch.Tensor] = []

    class Scripted(trainer_class):  # type: ignore[misc, valid-type]
        def _get_per_token_logps_and_entropies(self, model: Any, ids: Any, mask: Any, keep: int, *_: Any, **__: Any):
            generator = torch.Generator().manual_seed(len(made))
            made.append(-3 * torch.rand(len(ids), keep, generator=generator))
            return made[-1], None, None

    beta = options.pop("beta", 0.0)
    arguments = config(
        output_dir=str(directory),
        per_device_train_batch_size=len(SCORES),
        num_generations=SAMPLES,
        max_completion_length=6,
        report_to=[],
        use_cpu=True,
        bf16=False,
        beta=0.0,
        seed=3,
        **options,
    )
    rows = [{"prompt": text} for text in ("one", "two", "three", "four")]
    trainer = Scripted(
        model=build_model(),
        reward_funcs=lambda completions, **_: list(SCORES),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=build_tokenizer(),
    )
    trainer.beta = beta
    trainer.ref_model = trainer.model
    trainer.model.train()
    found = trainer._generate_and_score_completions([row for row in rows for _ in range(SAMPLES)])
    return {**found, "made": made}


def known() -> torch.Tensor:
    return torch.tensor([float("nan") if score is None else score for score in SCORES])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_grpo_s_advantages_are_those_of_trl_s_rollouts(scale: str, tmp_path: Path) -> None:
    found = rollout("GRPO", tmp_path, scale_rewards=scale)
    ours = relative(known(), SAMPLES, scale=scale)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours, found["advantages"], atol=1e-6)
    assert level(known(), SAMPLES).tolist() == [False, True, True, False]


@pytest.mark.parametrize("options", [{}, {"reward_clip_range": (-0.75, 0.75)}, {"beta": 0.3}])
def test_rloo_s_advantages_are_those_of_trl_s_rollouts(options: dict[str, Any], tmp_path: Path) -> None:
    found = rollout("RLOO", tmp_path, **options)
    scores = known()
    if "reward_clip_range" in options:
        scores = clipped(scores, 0.75)
    if "beta" in options:
        mask = found["completion_mask"]
        lengths = mask.sum(1)
        policy, reference = (ragged.flat(one * mask, lengths) for one in found["made"])
        scores = answer_rewards(scores, lengths, policy - reference, options["beta"])
    ours = rloo_advantages(scores, SAMPLES)
    np.testing.assert_allclose(ours, found["advantages"], atol=2e-6)
    assert ours.abs().max() > 0.5
