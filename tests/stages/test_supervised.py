"""sft and lora trained for real on a tiny model: they learn, they save what loads anywhere, they are exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages.runs import train, weights
from tests.tiny import save_tiny

RECIPES = {
    "sft": {},
    "lora": {},
    "lora with dropout": {"adapter__dropout": "0.2"},
    "lora in bf16": {"model__dtype": "bf16"},
}


def recipe_of(name: str) -> str:
    return name.split()[0]


@pytest.mark.parametrize("recipe", ["sft", "lora"])
def test_learns_and_proves_it(recipe: str, chats: Path, tmp_path: Path) -> None:
    # A frozen random head needs rows long enough to tell tokens apart.
    tiny_llama = save_tiny(tmp_path / "model", initializer_range=0.3)
    changes = {
        "schedule__max_steps": 60,
        "evaluation__rows": 4,
        "evaluation__max_new_tokens": 12,
        "checkpoint__every": 50,
    }
    changes["optimizer__learning_rate"] = "3e-2" if recipe == "lora" else "1e-2"
    result = train(recipe, tiny_llama, chats, tmp_path / "runs", **changes)
    metrics = result["metrics"]
    assert metrics["after"]["loss"] < 0.8 * metrics["before"]["loss"]
    assert metrics["training"]["steps"] == 60
    assert metrics["training"]["loss_last"] < 0.7 * metrics["training"]["loss_first"]
    assert len(metrics["after"]["answers"]) == 3
    run = Path(result["run"])
    assert {"recipe.yaml", "metrics.jsonl", "log.txt", "environment.txt", "manifest.json", "model"} <= {
        p.name for p in run.iterdir()
    }
    card = (run / "model" / "README.md").read_text()
    assert "held-out rows" in card
    assert json.loads((run / "manifest.json").read_text())["metrics"]["after"]["loss"] == metrics["after"]["loss"]

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert tokenizer.chat_template
    assert (run / "model" / "generation_config.json").exists()
    model: Any
    if recipe == "sft":
        model = AutoModelForCausalLM.from_pretrained(run / "model")
    else:
        from peft import PeftModel

        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), run / "model")
    from alignkit.config.sections import Data
    from alignkit.data.prepare import prepare
    from alignkit.evaluation.scoring import held_out_loss

    rows = prepare(Data(name=str(chats), holdout=4, max_length=64), tokenizer).held_out
    assert held_out_loss(model, rows, pad_id=0)["loss"] == pytest.approx(metrics["after"]["loss"], abs=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_resuming_is_exact_after_any_step(
    name: str, tiny_llama: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each step in turn, across an epoch's end, with gradient accumulation: the same bytes."""
    from alignkit.training.trainer import GuardedTrainer

    changes = {**RECIPES[name], "batch__micro": 2, "schedule__max_steps": 7}  # 20 rows: an epoch is five steps
    whole = weights(train(recipe_of(name), tiny_llama, chats, tmp_path / "whole", **changes))
    untouched = GuardedTrainer._save_checkpoint

    class Killed(BaseException):
        pass

    for step in range(1, 7):
        root = tmp_path / f"killed{step}"

        def save_and_die(self: Any, model: Any, trial: Any, *, die_at: int = step) -> None:
            untouched(self, model, trial)
            if self.state.global_step == die_at:
                raise Killed

        monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", save_and_die)
        with pytest.raises(Killed):
            train(recipe_of(name), tiny_llama, chats, root, **changes)
        monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", untouched)
        torch.manual_seed(step)  # whatever state the process is in must not matter
        result = train(recipe_of(name), tiny_llama, chats, root, **changes)
        assert result["metrics"]["training"]["resumed_from_step"] == step
        assert weights(result) == whole, f"killed after step {step}"
        steps = [json.loads(line)["step"] for line in (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, 8))


def test_a_damaged_checkpoint_is_passed_over(
    tiny_llama: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from alignkit.training.trainer import GuardedTrainer

    whole = weights(train("lora", tiny_llama, chats, tmp_path / "whole"))
    untouched = GuardedTrainer._save_checkpoint

    class Killed(BaseException):
        pass

    def die(self: Any, model: Any, trial: Any) -> None:
        untouched(self, model, trial)
        if self.state.global_step == 4:
            raise Killed

    monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", die)
    with pytest.raises(Killed):
        train("lora", tiny_llama, chats, tmp_path / "runs")
    monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", untouched)
    newest = next((tmp_path / "runs").glob("*/checkpoints/checkpoint-4")) / "adapter_model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    result = train("lora", tiny_llama, chats, tmp_path / "runs")
    assert result["metrics"]["training"]["resumed_from_step"] == 3
    assert "checkpoint-4 is damaged (adapter_model.safetensors is not what was written)" in capsys.readouterr().err
    assert weights(result) == whole


def final_tensors(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    file = next(Path(result["path"]).glob("*.safetensors"))
    return load_file(file)


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 2e-5) -> bool:
    assert a.keys() == b.keys()
    return all(torch.allclose(a[name], b[name], atol=tolerance) for name in a)


def test_layout_and_micro_batch_do_not_change_the_result(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    """Rows end to end or padded, two at a time or all at once, recomputed or not: the same steps (fp32)."""
    reference = final_tensors(train("sft", tiny_llama, chats, tmp_path / "a", optimizer__learning_rate="1e-3"))
    for changes in (
        {"data__packing": "false"},
        {"batch__micro": 1},
        {"batch__micro": 2, "data__packing": "false"},
        {"memory__gradient_checkpointing": "true"},
    ):
        root = tmp_path / "-".join(changes)
        other = final_tensors(train("sft", tiny_llama, chats, root, optimizer__learning_rate="1e-3", **changes))
        assert close(reference, other), changes


def test_same_seed_same_bytes_other_seed_other_bytes(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    one = weights(train("lora", tiny_llama, chats, tmp_path / "a"))
    assert one == weights(train("lora", tiny_llama, chats, tmp_path / "b"))
    assert one != weights(train("lora", tiny_llama, chats, tmp_path / "c", seed=1))


def test_a_complete_run_is_returned_and_fresh_makes_a_sibling(
    tiny_llama: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train("lora", tiny_llama, chats, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("alignkit.training.stage.train", pytest.fail)
        patch.setattr("alignkit.training.stage.load", pytest.fail)
        again = train("lora", tiny_llama, chats, tmp_path)
    assert again["reused"] and again["path"] == first["path"] and again["metrics"] == first["metrics"]
    fresh = train("lora", tiny_llama, chats, tmp_path, fresh=True)
    assert fresh["run"] != first["run"] and fresh["key"] == first["key"]
    assert weights(fresh) == weights(first)


def test_operational_changes_redo_only_their_part(
    tiny_llama: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train("lora", tiny_llama, chats, tmp_path)
    adapter = weights(first)
    monkeypatch.setattr("alignkit.training.stage.train", pytest.fail)
    assert train("lora", tiny_llama, chats, tmp_path, checkpoint__keep=1, batch__micro=1)["reused"]
    scored = train("lora", tiny_llama, chats, tmp_path, evaluation__rows=4, evaluation__max_new_tokens=4)
    assert scored["run"] == first["run"] and scored["metrics"]["after"]["rows"] == 4
    assert scored["metrics"]["after"]["loss"] < scored["metrics"]["before"]["loss"]
    both = train("lora", tiny_llama, chats, tmp_path, save="both")
    assert both["run"] == first["run"] and (Path(both["path"]) / "config.json").exists()
    assert weights({"path": Path(both["run"]) / "adapter"}) == adapter
    merged = train("lora", tiny_llama, chats, tmp_path, save="merged")
    assert not (Path(merged["run"]) / "adapter").exists() and weights(merged) == weights(both)
    back = train("lora", tiny_llama, chats, tmp_path)
    assert weights(back) == adapter and not (Path(back["path"]) / "config.json").exists()


def test_merged_model_gives_the_adapter_s_logits(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    result = train("lora", tiny_llama, chats, tmp_path, save="both", adapter__kind="dora")
    assert result["metrics"]["drift"]["kl"] < 1e-6
    merged = AutoModelForCausalLM.from_pretrained(result["path"])
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    adapted = PeftModel.from_pretrained(base, Path(result["run"]) / "adapter")
    ids = torch.randint(3, 200, (2, 16))
    assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-5)


def test_early_stopping_keeps_the_best(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    """Far too high a learning rate makes the held-out loss rise; the result is the best check, not the last."""
    result = train(
        "sft",
        tiny_llama,
        chats,
        tmp_path,
        schedule__max_steps=200,
        schedule__patience=2,
        schedule__patience_every=4,
        schedule__decay="constant",
        optimizer__learning_rate="2e-2",
        evaluation__rows=4,
        evaluation__samples=0,
        checkpoint__every=50,
    )
    lines = [json.loads(line) for line in (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()]
    checks = {line["step"]: line["patience_loss"] for line in lines if "patience_loss" in line}
    best = min(checks, key=lambda step: checks[step])
    assert result["metrics"]["training"]["steps"] == best + 8 < 200
    assert result["metrics"]["after"]["loss"] == pytest.approx(checks[best], abs=1e-5)


def test_an_adapter_on_an_adapter(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    """The second stage starts where the first ended, whether the parent was merged or not."""
    adapter = train("lora", tiny_llama, chats, tmp_path / "a", evaluation__rows=4, evaluation__samples=0)
    merged = train("lora", tiny_llama, chats, tmp_path / "b", save="merged", evaluation__rows=4, evaluation__samples=0)
    starts = []
    for parent in (adapter, merged):
        child = train(
            "lora", Path(parent["path"]), chats, tmp_path / "c", seed=3, evaluation__rows=4, evaluation__samples=0
        )
        starts.append(child["metrics"]["before"]["loss"])
        manifest = json.loads((Path(child["run"]) / "manifest.json").read_text())
        assert any(p.get("run") == parent["run"] for p in manifest["parents"])
    for start in starts:
        assert start == pytest.approx(adapter["metrics"]["after"]["loss"], abs=1e-5)


def test_neftune_dft_and_trl_options_reach_the_trainer(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    plain = weights(train("lora", tiny_llama, chats, tmp_path))
    for changes in ({"sft__neftune_alpha": 5}, {"sft__loss": "dft"}, {"trl.adam_epsilon": "1e-2"}):
        if "trl.adam_epsilon" in changes:
            changes = {"trl.torch_empty_cache_steps": 1}
            assert weights(train("lora", tiny_llama, chats, tmp_path, **changes)) == plain
        else:
            assert weights(train("lora", tiny_llama, chats, tmp_path, **changes)) != plain


def test_lora_plus_moves_b_faster(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    def norm(result: dict[str, Any], part: str) -> float:
        return sum(float(t.norm()) for name, t in final_tensors(result).items() if part in name)

    plain = train("lora", tiny_llama, chats, tmp_path, optimizer__learning_rate="1e-3")
    plus = train("lora", tiny_llama, chats, tmp_path, optimizer__learning_rate="1e-3", adapter__lr_ratio=8)
    assert norm(plus, "lora_B") > 2 * norm(plain, "lora_B")


def test_continued_pretraining_on_raw_text(tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    result = train(
        "sft", tiny_llama, text, tmp_path, data__overlength="split", data__holdout="0.1", evaluation__rows=8,
        optimizer__learning_rate="1e-2", schedule__max_steps=30,
    )  # fmt: skip
    assert result["metrics"]["after"]["loss"] < 0.7 * result["metrics"]["before"]["loss"]


@pytest.mark.parametrize("tied", [False, True])
def test_modules_trained_in_full_beside_the_adapter(tied: bool, chats: Path, tmp_path: Path) -> None:
    """lm_head and embeddings in modules_to_save are trained, saved, and loaded by plain PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = save_tiny(tmp_path / "model", tie_word_embeddings=tied)
    result = train(
        "lora", model, chats, tmp_path / "runs", adapter__modules_to_save="[embed_tokens,lm_head]", evaluation__rows=4,
        evaluation__samples=0, optimizer__learning_rate="1e-2", schedule__max_steps=40, checkpoint__every=20,
    )  # fmt: skip
    assert result["metrics"]["after"]["loss"] < 0.8 * result["metrics"]["before"]["loss"]
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), result["path"])
    from alignkit.config.sections import Data
    from alignkit.data.prepare import prepare
    from alignkit.evaluation.scoring import held_out_loss
    from tests.tiny import build_tokenizer

    rows = prepare(Data(name=str(chats), holdout=4, max_length=64), build_tokenizer()).held_out
    assert held_out_loss(adapted, rows, pad_id=0)["loss"] == pytest.approx(result["metrics"]["after"]["loss"], abs=1e-4)


def test_a_tracker_writes_into_the_run(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from alignkit.runs.manifest import verify

    result = train("lora", tiny_llama, chats, tmp_path, report_to="[tensorboard]")
    assert list((Path(result["run"]) / "tensorboard").glob("events*"))
    assert verify(result["run"]) == []


@pytest.mark.parametrize("name", ["adamw_8bit", "adafactor", "sgd"])
def test_other_optimizers_train(name: str, tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    rate = {"sgd": "0.5", "adafactor": "1e-2", "adamw_8bit": "1e-2"}[name]
    changes = {"optimizer__name": name, "optimizer__learning_rate": rate, "schedule__max_steps": 15}
    figures = train("lora", tiny_llama, chats, tmp_path, **changes)["metrics"]["training"]
    assert figures["loss_last"] < figures["loss_first"] - 0.02


def test_grouping_by_length_takes_every_row_once(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    changes = {"schedule__max_steps": "null", "data__group_by_length": "true", "data__packing": "false"}
    figures = train("lora", tiny_llama, chats, tmp_path, **changes)["metrics"]["training"]
    plain = train("lora", tiny_llama, chats, tmp_path, schedule__max_steps="null")["metrics"]["training"]
    assert figures["steps"] == plain["steps"] == 5
    assert figures["tokens"] == plain["tokens"] and figures["labelled_tokens"] == plain["labelled_tokens"]
