"""The distilling forward of a student: labelled positions of a batch against its teacher's targets, chunk by chunk.

``install_distilling_head`` sets it on the model instance, as ``install_scoring_head`` does, so that the hooks of
DDP and FSDP still fire. It may be installed over the scoring head: calls without targets go to what stood before.

Letters: B rows, T tokens, N labelled positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from alignkit.models.token_rows import trained_rows
from alignkit.training.divergences import Objective
from alignkit.training.divergences_head import Distilled, distilled_scores
from alignkit.training.head import UNLABELLED, router_loss
from alignkit.training.logit_rule import LogitRule, logit_rule
from alignkit.training.targets import Targets
from alignkit.training.token_scores import Workspace


@dataclass
class DistillOutput(ModelOutput):  # type: ignore[misc]
    """What a distilling call returns.

    loss: scalar, the weighted sum of the positions' losses over `num_items_in_batch`, or over N.
    token_losses: (N,) with gradient and loss weights, for a caller with another normaliser.
    divergence, nll: (N,) nats, no gradient; nll is None where the objective needs none.
    label_mask: (B, T-1) bool, the N positions.
    hidden_states: the embedding's and every layer's (B, T, D), if asked for.
    aux_loss: the load-balancing loss of a mixture of experts, (), if asked for by `output_router_logits=True`. It is no
        part of the loss.
    """

    loss: Tensor | None = None
    token_losses: Tensor | None = None
    divergence: Tensor | None = None
    nll: Tensor | None = None
    label_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    aux_loss: Tensor | None = None


def install_distilling_head(model: Any, objective: Objective, *, vocabulary: int | None = None) -> None:
    """Set the distilling forward on ``model`` (a causal language model; a PEFT wrapper is looked through).

    ``model(..., labels=(B, T), targets=Targets)`` returns a ``DistillOutput``. The targets are of the N positions that
    predict a label other than -100, row by row (``labels[:, 1:] != -100``). With ``loss_weights`` (B, T) each
    token's loss is multiplied by its weight; the normaliser stays the number of labels, so weights are kept as they are
    given. ``positions`` (N,), ``position_labels`` (N,): score these of the B·T flattened positions instead, in this
    order, for teachers whose tokens lie elsewhere; ``loss_weights`` is then (N,) and the mask None. ``objective=``
    takes another objective for one call.

    Args:
        vocabulary: tokens that student and teacher share, where their tables differ by padding only.
    """
    from accelerate.utils import is_peft_model

    if is_peft_model(model):
        model = model.get_base_model()
    before = model.forward
    rule = logit_rule(model.config)
    text_config = model.config.get_text_config()
    space = Workspace()
    default = objective

    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: Any,
        targets: Targets | None = None,
        labels: Tensor | None = None,
        loss_weights: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        positions: Tensor | None = None,
        position_labels: Tensor | None = None,
        objective: Objective | None = None,
        **kwargs: Any,
    ) -> Any:
        if targets is None:
            given = {"labels": labels, "loss_weights": loss_weights, "num_items_in_batch": num_items_in_batch}
            return before(*args, **{k: v for k, v in given.items() if v is not None}, **kwargs)
        kwargs["use_cache"] = False
        trunk = self.base_model(*args, **kwargs)
        hidden = trunk.last_hidden_state  # (B, T, D)
        head = self.get_output_embeddings()
        device = head.weight.device
        mask: Tensor | None = None
        if positions is not None:
            assert position_labels is not None
            states, wanted = hidden.flatten(0, 1)[positions.to(hidden.device)].to(device), position_labels.to(device)
        else:
            assert labels is not None
            shifted = labels[:, 1:].to(device)
            mask = shifted != UNLABELLED  # (B, T-1)
            states, wanted = hidden[:, :-1].to(device)[mask], shifted[mask]  # (N, D), (N,)
            loss_weights = None if loss_weights is None else loss_weights[:, 1:].to(device)[mask]
        found = _distilled(head, states, wanted, targets.to(device), objective or default, rule, vocabulary, space)
        losses = found.loss
        if loss_weights is not None:
            losses = losses * loss_weights.to(losses)
        count = max(1, len(losses)) if num_items_in_batch is None else num_items_in_batch
        return DistillOutput(
            loss=losses.sum() / count,
            token_losses=losses,
            divergence=found.divergence,
            nll=found.nll,
            label_mask=mask,
            hidden_states=getattr(trunk, "hidden_states", None),
            aux_loss=router_loss(trunk, text_config, kwargs) if kwargs.get("output_router_logits") else None,
        )

    model.forward = types.MethodType(forward, model)


def _distilled(
    head: Any,
    states: Tensor,
    labels: Tensor,
    targets: Targets,
    objective: Objective,
    rule: LogitRule,
    vocabulary: int | None,
    space: Workspace,
) -> Distilled:
    """Scores (N,) under the head, whole again where a sharding library holds it in parts."""
    from torch.distributed.tensor import DTensor
    from trl.trainer.utils import maybe_gather_lm_head_ctx

    rows = trained_rows(head)
    weight, bias = head.weight, rows.bias if rows is not None else getattr(head, "bias", None)
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
        bias = None if bias is None else bias.full_tensor()
    with maybe_gather_lm_head_ctx(weight, bias):
        return distilled_scores(
            states, weight, bias, labels, targets, objective, rule=rule, vocabulary=vocabulary, rows=rows, space=space
        )
