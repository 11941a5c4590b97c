"""The fast loss path: token scores from the language-model head, on the positions that are asked for only, in chunks.

TRL's trainers call ``model(..., labels=labels, fused_lm_head=True)`` on a forward that they set on the model
instance and read per-token scores from what comes back. ``install_scoring_head`` sets ours on the same contract,
after the trainer is built, so that every TRL trainer inherits it. Differences from theirs: only labelled
positions are scored on every device (theirs compacts under Triton only), and where the head is frozen the
gradient is computed in the forward pass (see training/token_scores.py).

Rows with several answers ask by position: ``model(..., score_from=, score_labels=, fused_lm_head=True)``. The last
token of a shared prompt predicts the first token of each answer, which no label beside the tokens could say.

Letters: B rows, T tokens, N scored positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

from torch import Tensor

from alignkit.evaluation.inference import bare
from alignkit.models.token_rows import trained_rows, with_row_gradients
from alignkit.training.logit_rule import LogitRule, logit_rule
from alignkit.training.token_scores import Workspace, token_scores

UNLABELLED = -100

_ready: WeakSet[Any] = WeakSet()


def ready_to_score(model: Any) -> Any:
    """``model`` with the forward that scores answers. Once: what stands around that forward later stays around it."""
    if bare(model) not in _ready:
        install_scoring_head(model)
    return model


def install_scoring_head(model: Any, *, temperature: float = 1.0, wanted: tuple[str, ...] = ("log_probs",)) -> None:
    """Set our forward on ``model`` (a causal language model, not its PEFT wrapper), on TRL's contract.

    ``model(..., labels=(B, T), fused_lm_head=True)`` returns TRL's ``FusedCausalLMOutput`` with (B, T-1) fields, zero
    where the label is -100; with ``shift_labels=(B, T)`` the fields are (B, T) and nothing is shifted. With
    ``loss_weights`` of the labels' shape, each token's log-probability comes back times its weight.

    ``model(..., score_from=(N,), score_labels=(N,), fused_lm_head=True)`` scores token ``score_labels[n]`` under the
    prediction of position ``score_from[n]`` of the (B·T) flattened ones, a position as often as it is named; the fields
    are (N,) and ``label_mask`` is None. For this call ``score_wanted`` names other fields than ``wanted`` (names of
    ``token_scores.OUTPUTS``), ``score_temperature`` another temperature, and with ``score_states`` the output has
    ``states`` (N, D), the trunk's last hidden states at the positions that were named, with their gradient; with these
    and ``score_wanted=()`` the head is not asked at all. The loss is the mean negative log-probability (or the sum over
    ``num_items_in_batch``).

    Every other call goes to the forward that stood before, so generation and evaluation see the plain model.
    """
    from trl.trainer.utils import FusedCausalLMOutput

    model = bare(model)
    _ready.add(model)
    before = model.forward
    text_config = model.config.get_text_config()
    rule = logit_rule(model.config, temperature)
    space = Workspace()

    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        loss_weights: Tensor | None = None,
        score_from: Tensor | None = None,
        score_labels: Tensor | None = None,
        score_wanted: tuple[str, ...] | None = None,
        score_temperature: float | None = None,
        score_states: bool = False,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            given = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
            return before(*args, **{k: v for k, v in given.items() if v is not None}, **kwargs)
        kwargs["use_cache"] = False
        if getattr(text_config, "output_router_logits", False):
            kwargs.setdefault("output_router_logits", True)
        trunk = self.base_model(*args, **kwargs)  # looked up each time: FSDP and PEFT replace it
        hidden = trunk.last_hidden_state  # (B, T, D)
        head = self.get_output_embeddings()
        outputs = wanted if score_wanted is None else score_wanted
        asked = rule if score_temperature is None else replace(rule, temperature=score_temperature)
        device = head.weight.device
        mask: Tensor | None = None
        states: Tensor | None = None
        if score_from is not None:
            assert score_labels is not None
            states = hidden.flatten(0, 1).index_select(0, score_from.to(hidden.device)).to(device)  # (N, D)
            if score_states and not outputs:
                return _with_states()(states=states)
            full = _scores_of(head, states, score_labels.to(device), asked, outputs, space)
        else:
            if shift_labels is None:
                assert labels is not None
                hidden, targets = hidden[:, :-1], labels[:, 1:]
                loss_weights = None if loss_weights is None else loss_weights[:, 1:]
            else:
                targets = shift_labels
            targets = targets.to(device)
            mask = targets != UNLABELLED  # (B, T')
            found = _scores_of(head, hidden.to(device)[mask], targets[mask], asked, outputs, space)
            # masked_scatter keeps an all-masked batch connected to the graph, so that it yields a zero gradient.
            full = {k: None if v is None else v.new_zeros(mask.shape).masked_scatter(mask, v) for k, v in found.items()}
        log_probs = full["log_probs"]
        assert log_probs is not None
        if loss_weights is not None:
            full["log_probs"] = log_probs = log_probs * loss_weights.to(log_probs)
        if num_items_in_batch is None:
            num_items_in_batch = max(1, log_probs.numel()) if mask is None else mask.sum().clamp(min=1)
        loss = -log_probs.sum() / num_items_in_batch
        aux = router_loss(trunk, text_config, kwargs) if kwargs.get("output_router_logits") else None
        if aux is not None:
            loss = loss + getattr(text_config, "router_aux_loss_coef", 0.0) * aux
        if score_states:
            return _with_states()(loss=loss, label_mask=mask, aux_loss=aux, states=states, **full)
        return FusedCausalLMOutput(loss=loss, label_mask=mask, aux_loss=aux, **full)

    model.forward = types.MethodType(forward, model)


@functools.cache
def _with_states() -> Any:
    """TRL's output with the hidden states beside the scores. TRL loads for seconds, so it is made when first needed."""
    from trl.trainer.utils import FusedCausalLMOutput

    @dataclass
    class ScoredOutput(FusedCausalLMOutput):  # type: ignore[misc]
        states: Tensor | None = None

    return ScoredOutput


def head_log_probs(model: Any, states: Tensor, labels: Tensor) -> Tensor:
    """(N,) log-probabilities in nats of labels (N,) under a model's head at states (N, D), with their gradient: for
    losses that look at a forward pass a second time. A PEFT wrapper is looked through."""
    from accelerate.utils import is_peft_model

    if is_peft_model(model):
        model = model.get_base_model()
    head = model.get_output_embeddings()
    device = head.weight.device
    rule = logit_rule(model.config)
    found = _scores_of(head, states.to(device), labels.to(device), rule, ("log_probs",), Workspace())["log_probs"]
    assert found is not None
    return found


def _scores_of(
    head: Any, states: Tensor, labels: Tensor, rule: LogitRule, wanted: tuple[str, ...], space: Workspace
) -> dict[str, Tensor | None]:
    """Scores (N,) of labels (N,) under the head's predictions from states (N, D)."""
    from torch.distributed.tensor import DTensor
    from trl.trainer.utils import maybe_gather_lm_head_ctx

    rows = trained_rows(head)  # of a frozen head, a few rows that are trained beside an adapter
    weight, bias = head.weight, rows.bias if rows is not None else getattr(head, "bias", None)
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
        bias = None if bias is None else bias.full_tensor()
    with maybe_gather_lm_head_ctx(weight, bias):  # DeepSpeed ZeRO-3 keeps the head in shards
        scores = token_scores(states, weight, bias, labels, rule, wanted, space)
        return scores if rows is None else with_row_gradients(scores, states, weight, labels, rows, rule)


def router_loss(trunk: Any, text_config: Any, kwargs: dict[str, Any]) -> Tensor:
    """Load-balancing loss of a mixture of experts (Fedus et al. 2021, equations 4 to 6)."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    experts = getattr(text_config, "num_experts", None) or text_config.num_local_experts
    loss = load_balancing_loss_func(
        trunk.router_logits, experts, text_config.num_experts_per_tok, kwargs.get("attention_mask")
    )
    assert isinstance(loss, Tensor)
    return loss
