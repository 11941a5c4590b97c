"""The present policy answers some prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignkit.data.prompts import Prompts
from alignkit.evaluation.sampling import as_sample, pad_id, sample_ids
from alignkit.evaluation.stopping import stop_tokens
from alignkit.rollouts.rollout import Rolled


def draw(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    numbers: Sequence[int],
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    seed: int,
    number: int,
    batch: int,
) -> list[Rolled]:
    """``samples`` answers to each of the prompts ``numbers``, prompt by prompt; not judged yet.

    A prompt is read once for all of its answers, prompts of similar length go together, and an answer that has ended
    leaves the batch. What is drawn depends on the weights, the seed, the rollout, the prompt and the sample, not on
    ``batch`` nor on the other prompts (in fp32; in bf16 logits depend a little on the shape of the batch).

    Args:
        model: the policy, training or not; comes back as it was.
        prompts: all of them; ``numbers`` says which, each at most once.
        temperature, top_p: as `evaluation.sampling.sample_ids` has them. Log-probabilities that belong to answers
            drawn at another temperature than 1 are scored at that temperature too.
        number: of the rollout, from 0.
        batch: answers written at once.

    Raises:
        ValueError: a prompt without a single token.
    """
    asked = [prompts[one] for one in numbers]
    stop = stop_tokens(model, tokenizer)
    written = sample_ids(
        model,
        [one.ids for one in asked],
        stop=stop,
        pad_id=pad_id(tokenizer),
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        batch=batch,
        numbers=[stream(number, one) for one in numbers],
    )
    rolled = []
    for at, one, answers in zip(numbers, asked, written, strict=True):
        for sample, ids in enumerate(answers):
            found = as_sample(tokenizer, ids, stop)
            rolled.append(Rolled(at, sample, one.where, one.ids, ids, found.text, found.finished))
    return rolled


def stream(rollout: int, prompt: int) -> int:
    """The number that tells the chances of a prompt in one rollout from all others (see `sampling.uniforms`).

    Two words of 32 bits, the second never 0: what a seed sequence pads with zeros cannot be another prompt's.
    """
    return (rollout + 1 << 32) | prompt
