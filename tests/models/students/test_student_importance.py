"""Importance against numpy, from hidden states and attention weights; and where the answer is known."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alignkit.models.students.anatomy import Anatomy, laid_open
from alignkit.models.students.importance import activations, block_influence, loss_rise, mean_loss
from tests.models.students.tools import CalibrationTokens, rows, teacher

Array = NDArray[np.float64]


def opened(kind: str = "llama", **changes: Any) -> Anatomy:
    loaded = teacher(kind, **changes)
    loaded.model.set_attn_implementation("eager")  # it gives its attention weights
    return laid_open(loaded.model, "student")


def array(tensor: torch.Tensor) -> Array:
    found: Array = tensor.detach().double().numpy()
    return found


def states(anatomy: Anatomy, row: CalibrationTokens) -> Any:
    with torch.no_grad():
        return anatomy.model(
            torch.tensor([row.input_ids]), output_hidden_states=True, output_attentions=True, use_cache=False
        )


def normed(x: Array, norm: Any) -> Array:
    out: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + norm.variance_epsilon) * array(norm.weight)
    return out


def test_block_influence_is_the_mean_angle_between_a_layers_ends() -> None:
    anatomy = opened()
    angles: list[list[float]] = [[] for _ in range(anatomy.depth)]
    last: list[torch.Tensor] = []
    # The last hidden state that transformers gives is normed already; the layer's own is what the norm is given.
    handle = anatomy.model.model.norm.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    for row in rows():
        hidden = [array(state[0]) for state in states(anatomy, row).hidden_states]
        hidden[-1] = array(last.pop()[0])
        for number, (a, b) in enumerate(pairwise(hidden)):
            cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
            angles[number] += list(1 - cosine)
    handle.remove()
    np.testing.assert_allclose(block_influence(anatomy, rows()), [np.mean(own) for own in angles], atol=1e-6)


def test_heads_neurons_and_channels_are_measured_as_minitron_says() -> None:
    anatomy = opened()
    found = activations(anatomy, rows(), ["heads", "mlp", "hidden"])
    heads, neurons, channels = [], [], []
    for row in rows():
        output = states(anatomy, row)
        own_heads, own_neurons, own_norms = [], [], []
        for number, layer in enumerate(anatomy.layers):
            x = array(output.hidden_states[number][0])  # (T, D)
            before = normed(x, layer.input_layernorm)
            values = (before @ array(layer.self_attn.v_proj.weight).T).reshape(len(x), 2, 8)  # (T, K, d)
            weights = array(output.attentions[number][0])  # (H, T, T)
            mixed = np.stack([weights[head] @ values[:, head // 2] for head in range(4)], 1)  # (T, H, d)
            own_heads.append(np.linalg.norm(mixed, axis=-1).mean(0))
            x = x + mixed.reshape(len(x), -1) @ array(layer.self_attn.o_proj.weight).T
            between = normed(x, layer.post_attention_layernorm)
            gate = between @ array(layer.mlp.gate_proj.weight).T
            inside = gate / (1 + np.exp(-gate)) * (between @ array(layer.mlp.up_proj.weight).T)
            own_neurons.append(np.abs(inside).mean(0))
            own_norms += [np.abs(before).mean(0), np.abs(between).mean(0)]
        own_norms.append(np.abs(array(output.hidden_states[-1][0])).mean(0))
        heads.append(own_heads)
        neurons.append(own_neurons)
        channels.append(own_norms)

    def together(values: list[list[Array]]) -> Array:
        out: Array = np.sqrt((np.array(values) ** 2).sum(0))
        return out

    assert found.heads is not None and found.neurons is not None and found.channels is not None
    np.testing.assert_allclose(found.heads, together(heads), rtol=1e-4)
    np.testing.assert_allclose(found.neurons, together(neurons), rtol=1e-4)
    np.testing.assert_allclose(found.channels, together(channels).sum(0), rtol=1e-4)


def test_only_what_is_asked_for_is_measured() -> None:
    found = activations(opened(), rows(), ["mlp"])
    assert found.neurons is not None and found.heads is None and found.channels is None


def test_parts_that_do_nothing_are_found() -> None:
    anatomy = opened(layers=3)
    layer = anatomy.layers[1]
    with torch.no_grad():
        layer.mlp.up_proj.weight[5] = 0
        layer.self_attn.v_proj.weight[8:] = 0  # the second key/value head, of query heads 2 and 3
    found = activations(anatomy, rows(), ["heads", "mlp"])
    assert found.heads is not None and found.neurons is not None
    assert found.neurons[1, 5] == 0 and (found.neurons[1] == 0).sum() == 1
    assert (found.heads[1, 2:] == 0).all() and (found.heads[1, :2] > 0).all() and (found.heads[0] > 0).all()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_layer_that_adds_nothing_has_no_importance(kind: str) -> None:
    anatomy = opened(kind, layers=4)
    layer = anatomy.layers[2]
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if any(part in name for part in ("o_proj", "down_proj", "c_proj")):
                parameter.zero_()
    influence, rise = block_influence(anatomy, rows()), loss_rise(anatomy, rows())
    assert influence.argmin() == 2 and influence[2] < 1e-6 and (influence[[0, 1, 3]] > 1e-3).all()
    assert abs(rise[2]) < 1e-6 and (rise[[0, 1, 3]].abs() > 1e-3).all()


def test_the_rise_of_the_loss_is_that_of_a_model_without_the_layer() -> None:
    anatomy = opened(layers=3)
    marked = [CalibrationTokens(row.input_ids, [-100] * 5 + row.input_ids[5:]) for row in rows()]
    whole = list(anatomy.layers)

    def by_hand() -> float:
        losses = []
        for row in marked:
            ids = torch.tensor([row.input_ids])
            with torch.no_grad():
                found = anatomy.model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            losses += (-found.gather(1, ids[0, 1:, None])[4:, 0]).tolist()
        return float(np.mean(losses))

    expected = []
    before = by_hand()
    assert before == pytest.approx(mean_loss(anatomy.model, marked), rel=1e-5)
    rise = loss_rise(anatomy, marked)
    for gone in range(3):
        anatomy.model.model.layers = torch.nn.ModuleList(whole[:gone] + whole[gone + 1 :])
        expected.append(by_hand() - before)
    np.testing.assert_allclose(rise, expected, atol=1e-5)


def test_rows_without_labels_have_no_loss() -> None:
    with pytest.raises(ValueError, match="no labelled token"):
        mean_loss(opened().model, [CalibrationTokens([5, 6, 7], [-100] * 3)])


def test_measuring_leaves_the_teacher_as_it_was() -> None:
    anatomy = opened()
    anatomy.layers[1].train()
    before = {name: value.clone() for name, value in anatomy.model.state_dict().items()}
    activations(anatomy, rows(), ["heads", "mlp", "hidden"])
    block_influence(anatomy, rows())
    assert all(torch.equal(before[name], value) for name, value in anatomy.model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in anatomy.model.modules())
    assert anatomy.layers[1].training and not anatomy.layers[0].training
