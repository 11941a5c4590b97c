"""A reward model: a sequence classifier with one output, asked through text, so that its vocabulary may be another.

Letters: B answers in a batch, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from alignkit.console import log
from alignkit.errors import Fault, RequestError
from alignkit.rewards.judged import Judged, Reward
from alignkit.rewards.kinds.kind import Kind
from alignkit.rewards.recipe import RewardSource


class ModelReward(Reward):
    """The output of a reward model on the whole conversation, laid out by its own chat template."""

    def __init__(self, model: Any, tokenizer: Any, *, batch: int, name: str = "model") -> None:
        """``model``: a classifier that gives (B, 1) logits, adapter or not; ``tokenizer``: its own."""
        self.name, self.batch = name, batch
        self.model, self.tokenizer = model, tokenizer
        self._said = False

    def score(self, rows: Sequence[Judged]) -> list[float]:
        import torch

        from alignkit.evaluation.inference import bare, context_length, reading

        limit = context_length(self.model)
        ids = [self._fitting(self._ids(row), limit) for row in rows]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        scores = [0.0] * len(rows)
        # Where a row ends is told to the model by the pad token that its configuration names, not by the mask.
        fill, device = int(bare(self.model).config.pad_token_id), next(self.model.parameters()).device
        with reading(self.model):
            for start in range(0, len(order), self.batch):
                some = order[start : start + self.batch]
                length = len(ids[some[0]])
                padded = [ids[row] + [fill] * (length - len(ids[row])) for row in some]
                mask = [[1] * len(ids[row]) + [0] * (length - len(ids[row])) for row in some]
                logits = self.model(
                    input_ids=torch.tensor(padded, device=device),  # (B, T)
                    attention_mask=torch.tensor(mask, device=device),
                    use_cache=False,
                ).logits  # (B, 1)
                for row, score in zip(some, logits[:, 0].float().tolist(), strict=True):
                    scores[row] = score
        return scores

    def _ids(self, row: Judged) -> list[int]:
        from alignkit.data.encoding.closing import whole_ids
        from alignkit.data.encoding.rendering import Renderer
        from alignkit.data.encoding.templating import no_template
        from alignkit.data.encoding.tokenizing import Encoder
        from alignkit.data.rows import Completion

        turns = row.conversation
        if turns is None:
            assert isinstance(row.prompt, str)
            text = Renderer(self.tokenizer).render([Completion(row.prompt, row.answer, row.where)])[0]
            [read] = Encoder(self.tokenizer, short=False).encode(text)
            return read.input_ids
        if not self.tokenizer.chat_template:
            raise no_template("the reward model")
        return whole_ids(self.tokenizer, turns, row.tools)

    def _fitting(self, ids: list[int], limit: int | None) -> list[int]:
        """The end of what is longer than the model reads: the answer is there."""
        if limit is None or len(ids) <= limit:
            return ids
        if not self._said:
            self._said = True
            log.warn(f"the reward model reads {limit} tokens: of longer conversations it sees the end")
        return ids[-limit:]


def _make(source: RewardSource, batch: int, where: str) -> Reward:
    from alignkit.models.classifier import load_classifier

    assert source.model is not None
    loaded = load_classifier(source.model, where=f"{where}.model")
    return ModelReward(loaded.model, loaded.tokenizer, batch=batch)


def _check(source: RewardSource, where: str) -> Iterator[Fault]:
    from alignkit.models.classifying import classifier_faults
    from alignkit.models.sources import locate

    assert source.model is not None
    try:
        found = locate(source.model)
    except RequestError:  # said by the check of the model itself
        return
    yield from classifier_faults(found, f"{where}.model")


MODEL = Kind(
    name="model",
    about="the output of a reward model on prompt and answer",
    make=_make,
    reads=("model",),
    needs=("model",),
    example="Write {name: model, model: ./DIR}, or the path alone.",
    check=_check,
)
