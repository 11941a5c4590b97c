"""A reward model: a sequence classifier with one output, asked through text, so that its vocabulary may be another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alignkit.console import log
from alignkit.errors import Fault, RequestError
from alignkit.rewards.judged import Judged, Reward
from alignkit.rewards.kinds.kind import Kind, Making
from alignkit.rewards.recipe import RewardSource


class ModelReward(Reward):
    """The output of a reward model on the whole conversation, laid out by its own chat template."""

    def __init__(self, model: Any, tokenizer: Any, *, batch: int, name: str = "model") -> None:
        """``model``: a classifier that gives (B, 1) logits, adapter or not; ``tokenizer``: its own."""
        self.name, self.batch = name, batch
        self.model, self.tokenizer = model, tokenizer
        self._scorer: Any = None
        self._said = False

    def score(self, rows: Sequence[Judged]) -> list[float]:
        from alignkit.evaluation.inference import context_length
        from alignkit.rewards.classified import Scorer

        if self._scorer is None:
            self._scorer = Scorer(self.model, batch=self.batch)
        limit = context_length(self.model)
        scores: list[float] = self._scorer([self._fitting(self._ids(row), limit) for row in rows])
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


def _make(source: RewardSource, making: Making) -> Reward:
    from alignkit.models.beside import Apart, load_beside
    from alignkit.models.classifier import load_classifier
    from alignkit.models.sources import locate

    assert source.model is not None
    if making.beside is not None:
        try:
            shared = load_beside(source.model, locate(source.model), making.beside)
        except Apart as reason:
            log.say(f"the reward model {source.model.name} is loaded by itself: {reason}")
        else:
            log.say(f"the reward model {source.model.name} shares the policy's base in memory")
            return ModelReward(shared.model, shared.tokenizer, batch=making.batch)
    loaded = load_classifier(source.model, where=f"{making.where}.model")
    return ModelReward(loaded.model, loaded.tokenizer, batch=making.batch)


def _readable(source: RewardSource) -> Callable[[Judged], str | None]:
    """Conversations need a chat template of the reward model's own."""
    from alignkit.models.loading import load_tokenizer

    assert source.model is not None
    templated = bool(load_tokenizer(source.model).chat_template)

    def problem(row: Judged) -> str | None:
        if templated or isinstance(row.prompt, str):
            return None
        return "has no chat template, and the prompt is a conversation"

    return problem


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
    fits=_readable,
)
