"""Made students: they compute what their teacher computes without the parts that are gone, and plain transformers loads
them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.errors import RequestError, RunError
from alignkit.models.students import cut
from alignkit.models.students import make as making
from alignkit.models.students.anatomy import laid_open
from alignkit.models.students.make import make_student, planned, student_at
from alignkit.models.students.plan import Plan
from alignkit.models.students.recipe import Student
from alignkit.models.students.record import read_record
from tests.models.students.tools import FAMILIES, logits, made, rows, teacher

ALL = ["heads", "mlp", "hidden"]


def gone(kept: list[int] | None, size: int) -> list[int]:
    return [] if kept is None else sorted(set(range(size)) - set(kept))


def zeroed(model: Any, plan: Plan) -> Any:
    """A copy of a teacher in which the weights that write what the plan leaves out are 0: the oracle."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for number, layer in enumerate(model.base_model.layers if hasattr(model.base_model, "layers") else []):
            writers = [layer.self_attn.o_proj, layer.mlp.down_proj]
            if number not in plan.layers:
                for parameter in (p for writer in writers for p in writer.parameters()):
                    parameter.zero_()
                continue
            place = plan.layers.index(number)
            size = layer.self_attn.head_dim
            for head in gone(plan.heads[place] if plan.heads else None, model.config.num_attention_heads):
                writers[0].weight[:, head * size : (head + 1) * size] = 0
            writers[1].weight[:, gone(plan.neurons[place] if plan.neurons else None, 64)] = 0
            for writer in writers:
                for parameter in writer.parameters():
                    parameter[gone(plan.channels, 32)] = 0
        model.get_input_embeddings().weight[:, gone(plan.channels, 32)] = 0
    return model


WAYS: dict[str, dict[str, Any]] = {
    "layers": {"kind": "layers", "fraction": 0.5},
    "layers by name": {"kind": "layers", "layers": [0, 1, 3]},
    "depth": {"kind": "depth", "layers": 2},
    "depth by loss": {"kind": "depth", "layers": 3, "importance": "loss"},
    "heads": {"kind": "width", "fraction": 0.85, "prune": ["heads"]},
    "mlp": {"kind": "width", "fraction": 0.6, "prune": ["mlp"]},
    "hidden": {"kind": "width", "fraction": 0.6, "prune": ["hidden"]},
    "everything": {"kind": "width", "fraction": 0.4, "prune": ALL},
    "depth and width": {"kind": "width", "layers": 3, "fraction": 0.4, "prune": ALL},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_a_student_is_its_teacher_without_the_parts_that_are_gone(family: str, way: str) -> None:
    kind, changes = FAMILIES[family]
    loaded, section = teacher(kind, **changes), Student(**WAYS[way])
    plan = planned(laid_open(loaded.model, "student"), section, rows())
    student = make_student(loaded, section, rows(), seed=0)
    whole, expected = logits(loaded.model), logits(zeroed(loaded.model, plan))
    torch.testing.assert_close(logits(student.model), expected, atol=2e-5, rtol=1e-4)
    assert (whole - expected).abs().mean() > 1e-2  # what is gone did something
    assert student.record.parameters < student.record.teacher_parameters


def test_heads_that_go_in_every_group_alike() -> None:
    """One key/value head: no group can go, so queries go."""
    loaded = teacher("gemma", head_dim=8, num_key_value_heads=1)
    section = Student(kind="width", fraction=0.9, prune=["heads"])
    plan = planned(laid_open(loaded.model, "student"), section, rows())
    student = make_student(loaded, section, rows(), seed=0)
    assert plan.shape.groups == 1 and plan.shape.heads < 4
    torch.testing.assert_close(logits(student.model), logits(zeroed(loaded.model, plan)), atol=2e-5, rtol=1e-4)


def test_gpt2_loses_layers_and_neurons() -> None:
    loaded = teacher("gpt2")
    for section in (Student(kind="depth", layers=2), Student(kind="width", fraction=0.7, prune=["mlp"])):
        plan = planned(laid_open(loaded.model, "student"), section, rows())
        oracle = copy.deepcopy(loaded.model)
        with torch.no_grad():
            for number, layer in enumerate(oracle.transformer.h):
                if number not in plan.layers:
                    for module in (layer.attn.c_proj, layer.mlp.c_proj):
                        module.weight.zero_()
                        module.bias.zero_()
                elif plan.neurons:
                    layer.mlp.c_proj.weight[gone(plan.neurons[number], 128)] = 0
        student = make_student(loaded, section, rows(), seed=0)
        torch.testing.assert_close(logits(student.model), logits(oracle), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["layers", "everything"])
def test_plain_transformers_loads_the_same_student_and_writes_with_its_cache(
    family: str, way: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind, changes = FAMILIES[family]
    student = made(teacher(kind, **changes), **WAYS[way])
    student.save(tmp_path / "student")
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits(again.eval()), logits(student.model))
    assert sum(parameter.numel() for parameter in again.parameters()) == student.record.parameters
    assert len(AutoTokenizer.from_pretrained(tmp_path / "student")) == len(student.tokenizer)
    prompt = torch.tensor([[5, 6, 7, 8]])
    written = again.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    for length in range(4, 12):  # each token is the likeliest after a pass without a cache
        with torch.no_grad():
            expected = again(input_ids=written[:, :length], use_cache=False).logits[0, -1].argmax()
        assert written[0, length] == expected


def test_patterns_over_layers_follow_the_layers() -> None:
    loaded = teacher("gemma2", layers=4, head_dim=8, sliding_window=6)
    student = made(loaded, kind="layers", layers=[1, 2, 3])
    assert loaded.model.config.layer_types == ["sliding_attention", "full_attention"] * 2
    assert student.model.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"kind": "width", "prune": ["heads", "mlp"], "multiple": 1}, 0.01),
        ({"kind": "width", "prune": ["mlp"], "multiple": 1}, 0.01),
        ({"kind": "width", "prune": ALL, "multiple": 1}, 0.02),
        ({"kind": "depth"}, 0.08),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_parameters_asked_for_are_met(options: dict[str, Any], tolerance: float, share: float) -> None:
    loaded = teacher(layers=8, vocab=259)
    wanted = int(share * sum(parameter.numel() for parameter in loaded.model.parameters()))
    student = made(loaded, parameters=wanted, **options)
    real = sum(parameter.numel() for parameter in student.model.parameters())
    assert student.record.parameters == real
    assert abs(real - wanted) <= tolerance * wanted
    assert len(student.record.lines()) == (3 if abs(real - wanted) > 0.02 * wanted else 2)


def test_a_fraction_is_of_the_layers() -> None:
    loaded = teacher(layers=6)
    half = made(loaded, kind="width", fraction=0.5, prune=["mlp"], multiple=1).model
    size = [sum(p.numel() for p in model.model.layers.parameters()) for model in (half, loaded.model)]
    assert abs(size[0] / size[1] - 0.5) < 0.01
    assert len(made(loaded, kind="depth", fraction=0.5).record.layers) == 3


def test_new_weights_are_those_of_the_seed_and_of_no_teacher() -> None:
    loaded = teacher()
    options: dict[str, Any] = {"kind": "width", "fraction": 0.5}
    first, again, other = (made(loaded, seed=seed, init="random", **options) for seed in (0, 0, 1))
    taken = made(loaded, **options)
    shapes = [{k: v.shape for k, v in one.model.state_dict().items()} for one in (first, taken)]
    assert shapes[0] == shapes[1]
    weight = [one.model.model.layers[0].mlp.up_proj.weight for one in (first, again, other, taken)]
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], weight[2]) and not torch.equal(weight[0], weight[3])
    assert first.record.init == "random" and first.record.parameters == taken.record.parameters


def test_making_disturbs_neither_the_teacher_nor_the_random_state() -> None:
    loaded = teacher()
    before, drawn = logits(loaded.model), torch.random.get_rng_state()
    config = loaded.model.config.to_dict()
    made(loaded, kind="width", layers=3, fraction=0.5, prune=ALL)
    made(loaded, kind="depth", layers=2, init="random")
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert torch.equal(before, logits(loaded.model)) and config == loaded.model.config.to_dict()


def test_a_student_stands_in_its_directory_once(tmp_path: Path) -> None:
    calls = []

    def load() -> Any:
        calls.append(1)
        return teacher()

    section, place = Student(kind="depth", layers=2), tmp_path / "student"
    assert student_at(place, load, section, rows(), seed=0) == place
    written = (place / "model.safetensors").read_bytes()
    assert student_at(place, load, section, rows(), seed=0) == place and len(calls) == 1
    record = read_record(place)
    assert record is not None and len(record.layers) == 2 and record.teacher_layers == 4
    # Cut off before its last file was written, it is made again, and is the same.
    (place / "student.json").unlink()
    (place / "model.safetensors").write_bytes(b"half")
    assert read_record(place) is None
    student_at(place, load, section, rows(), seed=0)
    assert len(calls) == 2 and (place / "model.safetensors").read_bytes() == written


def test_a_student_that_computes_something_else_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cut.fill

    def wrong(student: Any, anatomy: Any, plan: Plan) -> None:
        real(student, anatomy, Plan(list(reversed(plan.layers)), plan.shape))

    monkeypatch.setattr(making, "fill", wrong)
    with pytest.raises(RunError, match="does not compute what its teacher does"):
        made(teacher(), kind="layers", layers=2)


class TestRefusals:
    """Sentences, and under which key."""

    def refused(self, loaded: Any, match: str, key: str, **options: Any) -> None:
        with pytest.raises(RequestError, match=match) as caught:
            make_student(loaded, Student(**options), rows() if options.pop("given", True) else [], seed=0)
        assert caught.value.faults[0].where == key and caught.value.faults[0].instead

    def test_a_quantized_teacher(self) -> None:
        loaded = teacher()
        loaded.quantized = True
        self.refused(loaded, "these are quantized", "distill.student.kind", kind="layers", layers=2)

    def test_no_rows(self) -> None:
        with pytest.raises(RequestError, match="there are none"):
            make_student(teacher(), Student(kind="depth", layers=2), [], seed=0)
        assert make_student(teacher(), Student(kind="layers", layers=2), [], seed=0).record.layers == [0, 3]

    def test_too_many_layers(self) -> None:
        self.refused(
            teacher(), "5 layers are more than the teacher's 4", "distill.student.layers", kind="depth", layers=5
        )
        self.refused(teacher(), "has 4 layers, 0 to 3", "distill.student.layers", kind="layers", layers=[0, 4])

    @pytest.mark.parametrize("parameters", [1000, 10**9])
    def test_a_size_out_of_reach(self, parameters: int) -> None:
        for options in ({"kind": "depth"}, {"kind": "width"}):
            self.refused(teacher(), "out of reach", "distill.student.parameters", parameters=parameters, **options)

    def test_a_fraction_that_heads_alone_do_not_reach(self) -> None:
        options = {"kind": "width", "fraction": 0.3, "prune": ["heads"]}
        self.refused(teacher(), "goes from", "distill.student.fraction", **options)

    def test_what_a_family_ties(self) -> None:
        key = "distill.student.prune"
        self.refused(teacher("gpt2"), "ties heads and hidden", key, kind="width", fraction=0.5, prune=ALL)
        self.refused(teacher("phi3"), "is not known", "distill.student.kind", kind="width", fraction=0.5)
        assert made(teacher("phi3"), kind="depth", layers=2).record.parameters

    def test_a_model_that_is_no_row_of_layers(self) -> None:
        loaded = teacher()
        loaded.model.model.layers = torch.nn.ModuleList([*loaded.model.model.layers[:3], torch.nn.Identity()])
        self.refused(loaded, "not one row of equal layers", "distill.student.kind", kind="layers", layers=2)
