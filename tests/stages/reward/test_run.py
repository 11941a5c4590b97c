"""Reward models trained for real on a tiny model: they learn, whatever a batch holds, and load anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.data.encoding.closing import closing
from alignkit.errors import RequestError
from alignkit.stages.reward.rows import Closed
from tests.stages.reward.making import (
    labelled,
    lines,
    pair,
    ranked,
    reward,
    scored,
    scored_pair,
    turn,
    write_rows,
)
from tests.stages.runs import ROOT, environment, train, weights
from tests.tiny import build_tokenizer, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "llama", initializer_range=0.3)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "pairs.jsonl", 56, pair)


def held_out(result: dict[str, Any], pairs: Path) -> Any:
    from alignkit.config.sections import Data
    from alignkit.data.pairs import prepare_pairs

    section, tokenizer = Data(name=str(pairs), holdout=8, max_length=96), build_tokenizer()
    return whole(prepare_pairs(section, tokenizer, wants="preference").held_out, tokenizer)


def whole(rows: Any, tokenizer: Any) -> Any:
    """Rows that end as the template ends conversations."""
    how = closing(tokenizer)
    assert how is not None
    return Closed(rows, how)


PLAIN = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification
from peft import PeftModel
base, path, rows = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
if base == "none":
    model = AutoModelForSequenceClassification.from_pretrained(path)
else:
    model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base, num_labels=1), path)
model.eval()
longest = max(map(len, rows))
ids = torch.tensor([row + [model.config.pad_token_id] * (longest - len(row)) for row in rows])
mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
with torch.no_grad():
    print(json.dumps(model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()))
"""


def plain_rewards(base: Path | None, path: Path, rows: list[list[int]], folder: Path) -> np.ndarray:
    """Rewards by transformers and PEFT alone, in a process of its own that knows nothing of alignkit."""
    file = folder / "rows.json"
    file.write_text(json.dumps(rows))
    words = [sys.executable, "-c", PLAIN, str(base) if base else "none", str(path), str(file)]
    environ = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environ, timeout=200)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


KINDS: dict[str, dict[str, Any]] = {
    "full": {"optimizer__learning_rate": "3e-3"},
    "lora": {"adapter": "lora"},
    "dora": {"adapter": "lora", "adapter__kind": "dora"},
    "pissa": {"adapter": "lora", "adapter__init": "pissa"},
    "merged": {"adapter": "lora", "save": "merged"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_learns_and_gives_the_same_scores_anywhere(kind: str, model: Path, pairs: Path, tmp_path: Path) -> None:
    """Accuracy rises on rows that were held out; what is saved gives the same scores in a fresh process by transformers
    and PEFT alone, and through alignkit's classifier and its reward."""
    result = reward(model, pairs, tmp_path / "runs", schedule__max_steps=12, **KINDS[kind])
    before, after = result["metrics"]["before"], result["metrics"]["after"]
    assert after["accuracy"] == 1.0 > before["accuracy"] and after["margin"] > before["margin"] + 1
    assert after["loss"] < 0.4 < before["loss"] and after["calibration_error"] < 0.3
    steps = lines(result)
    assert steps[-1]["reward/margin"] > steps[0]["reward/margin"] + 1

    path, rows = Path(result["path"]), held_out(result, pairs)
    ids = [[*row.trunk, *branch.ids] for row in rows for branch in row.branches]
    adapter = (path / "adapter_config.json").exists()
    assert adapter == (kind in ("lora", "dora", "pissa"))
    plain = plain_rewards(model if adapter else None, path, ids, tmp_path)
    assert after["margin"] == pytest.approx(float((plain[0::2] - plain[1::2]).mean()), abs=2e-5)

    from alignkit.config.sections import Model
    from alignkit.models.classifier import load_classifier
    from alignkit.rewards.judged import Judged
    from alignkit.rewards.kinds.model import ModelReward

    loaded = load_classifier(Model(name=str(path), dtype="fp32"))
    source = [json.loads(line) for line in pairs.read_text().splitlines()]
    asked = {tuple(row.trunk): row for row in rows}
    judge = ModelReward(loaded.model, loaded.tokenizer, batch=3)
    checked = 0
    for row in source:
        tokens = tuple(loaded.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"])
        place = next((i for i, trunk in enumerate(asked) if trunk[: len(tokens)] == tokens), None)
        if place is None:
            continue
        both = [Judged(prompt=row["prompt"], answer=row[side][0]["content"]) for side in ("chosen", "rejected")]
        assert judge(both) == pytest.approx(plain[2 * place : 2 * place + 2].tolist(), abs=1e-5)
        checked += 1
    assert checked >= 8


def test_a_quantized_base(model: Path, pairs: Path, tmp_path: Path) -> None:
    """QLoRA: the saved adapter on the base that it saw gives what was reported; merged, rewards hardly move."""
    pytest.importorskip("bitsandbytes")
    from alignkit.config.sections import Model, Quantization
    from alignkit.models.classifier import load_scored
    from alignkit.models.sources import locate
    from alignkit.stages.reward.rows import collator
    from alignkit.stages.reward.scoring import score_rows

    changes = {"adapter": "lora", "quantization": "nf4", "schedule__max_steps": 12}
    result = reward(model, pairs, tmp_path / "runs", **changes)
    after = result["metrics"]["after"]
    assert after["accuracy"] == 1.0
    section = Model(name=result["path"], dtype="fp32")
    rows = held_out(result, pairs)
    for quantization in ("nf4", "none"):
        loaded = load_scored(section, Quantization(kind=quantization), source=locate(section))
        assert loaded.quantized == (quantization == "nf4")
        found = score_rows(loaded.model, rows, collator("padded", 0), batch=3)
        assert float((found[:, 0] - found[:, 1]).mean()) == pytest.approx(after["margin"], abs=1e-4)
    merged = reward(model, pairs, tmp_path / "other", **changes, save="merged")["metrics"]["merged_rewards"]
    assert merged["rows"] == 8 and merged["moved"] < 1e-3 * max(1, merged["deviation"])


def test_a_template_of_its_own_comes_along(pairs: Path, tmp_path: Path) -> None:
    """A base without a chat template, an adapter that learned with one: what is read back by its name alone renders
    conversations and scores as it did in training, beside a policy too."""
    from alignkit.config.sections import Data, Model
    from alignkit.data.pairs import prepare_pairs
    from alignkit.models.beside import load_beside
    from alignkit.models.classifier import load_classifier
    from alignkit.models.loading import load
    from alignkit.models.sources import locate
    from alignkit.rewards.judged import Judged
    from alignkit.rewards.kinds.model import ModelReward
    from alignkit.stages.reward.rows import collator
    from alignkit.stages.reward.scoring import score_rows

    # The files name another pad token (5) than the template's tokenizer (0): training pads with the latter.
    bare = save_tiny(tmp_path / "bare", template=None, initializer_range=0.3, pad_token_id=5)
    result = reward(bare, pairs, tmp_path / "runs", adapter="lora", data__template="llama3", schedule__max_steps=8)
    section = Model(name=result["path"], dtype="fp32")
    loaded = load_classifier(section)
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id == 0
    prepared = prepare_pairs(
        Data(name=str(pairs), holdout=8, max_length=96), loaded.tokenizer, wants="preference"
    ).held_out
    collate = collator("padded", loaded.model.config.pad_token_id)
    found = score_rows(loaded.model, whole(prepared, loaded.tokenizer), collate, batch=3)
    assert float((found[:, 0] - found[:, 1]).mean()) == pytest.approx(result["metrics"]["after"]["margin"], abs=1e-4)

    rows = [Judged(prompt=turn("user", word), answer=word.upper()) for word in ("abc", "de", "c")]
    alone = ModelReward(loaded.model, loaded.tokenizer, batch=2)(rows)
    policy = load(Model(name=str(bare), dtype="fp32"))
    beside = load_beside(section, locate(section), policy)
    assert ModelReward(beside.model, beside.tokenizer, batch=2)(rows) == alone
    assert len(policy.model.get_input_embeddings().weight) == 259, "the policy's own vocabulary stays"


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_adapter_on_an_adapter(quantization: str, model: Path, pairs: Path, tmp_path: Path) -> None:
    """The usual chain: an adapter learns demonstrations, a reward adapter stands on that; both are read back."""
    if quantization == "nf4":
        pytest.importorskip("bitsandbytes")
    chats = write_rows(
        tmp_path / "chats.jsonl", 12, lambda w, n, r: {"messages": [*turn("user", w), *turn("assistant", w)]}
    )
    first = train("lora", model, chats, tmp_path / "runs", quantization=quantization, schedule__max_steps=2)
    result = reward(Path(first["path"]), pairs, tmp_path / "runs", adapter="lora", quantization=quantization)
    again = reward(model, pairs, tmp_path / "runs", adapter="lora", quantization=quantization)
    assert result["metrics"]["after"]["margin"] != again["metrics"]["after"]["margin"]

    from alignkit.config.sections import Model
    from alignkit.models.classifier import load_classifier
    from alignkit.stages.reward.rows import collator
    from alignkit.stages.reward.scoring import score_rows

    loaded = load_classifier(Model(name=result["path"], dtype="fp32"))
    found = score_rows(loaded.model, held_out(result, pairs), collator("padded", 0), batch=3)
    expected = result["metrics"]["after"]["margin"]
    assert float((found[:, 0] - found[:, 1]).mean()) == pytest.approx(expected, abs=1e-4)


def test_scores_are_learned_by_least_squares(model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "scored.jsonl", 80, scored)
    steps = {"schedule__max_steps": 36, "reward__learn": "scores", "adapter": "lora"}
    result = reward(model, rows, tmp_path / "runs", **steps)
    after = result["metrics"]["after"]
    assert result["metrics"]["scores"] == {"mean": pytest.approx(6, abs=0.2), "deviation": pytest.approx(1, abs=0.1)}
    assert after["correlation"] > 0.9 and after["error"] < 0.5  # the scores are 5 and 7
    assert abs(after["mean"]) < 1
    raw = reward(model, rows, tmp_path / "runs", **steps, reward__standardize="false")
    assert "scores" not in raw["metrics"] and lines(raw)[0]["loss"] > 10 * lines(result)[0]["loss"]
    both = write_rows(tmp_path / "pairs.jsonl", 40, scored_pair)
    taken = reward(model, both, tmp_path / "runs", **{**steps, "schedule__max_steps": 3})
    assert taken["metrics"]["training"]["rows"] == 72 and taken["metrics"]["after"]["correlation"] is not None


def test_labels_are_learned_by_cross_entropy(model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "labelled.jsonl", 80, labelled)
    result = reward(model, rows, tmp_path / "runs", schedule__max_steps=18, reward__learn="labels", adapter="lora")
    after = result["metrics"]["after"]
    assert after["accuracy"] == 1.0 and after["area"] == 1.0 and after["loss"] < 0.4
    assert result["metrics"]["headline"] == {
        "name": "accuracy",
        "before": result["metrics"]["before"]["accuracy"],
        "after": 1.0,
    }


def test_the_best_of_n_and_the_plot(model: Path, pairs: Path, tmp_path: Path) -> None:
    """Picking by the reward beats a random answer, by scores that it never saw; another request only measures again."""
    asked = write_rows(tmp_path / "ranked.jsonl", 20, ranked, seed=5)
    changes = {"adapter": "lora", "schedule__max_steps": 12}
    result = reward(model, pairs, tmp_path / "runs", **changes, evaluation__best_of=asked)
    found = {one["n"]: one for one in result["metrics"]["after"]["best_of"]}
    assert sorted(found) == [2, 4] and found[4]["prompts"] == 20
    assert found[4]["possible"] == pytest.approx(3 - 5 / 4)
    run = Path(result["run"])
    assert (run / "reliability.png").exists() or "how sure" in (run / "reliability.txt").read_text()
    again = reward(model, pairs, tmp_path / "runs", **changes, evaluation__best_of=asked)
    assert again["reused"]
    fewer = reward(model, pairs, tmp_path / "runs", **changes, evaluation__best_of=asked, evaluation__best_of_rows=7)
    assert fewer["run"] == result["run"] and fewer["metrics"]["after"]["best_of"][0]["prompts"] == 7
    assert weights(fewer) == weights(result)


def test_generated_pairs_are_told_apart(model: Path, tmp_path: Path) -> None:
    """Short JSON over chatty text, in words that training did not see: well above chance."""
    changes = {"data__rows": 96, "data__max_length": 512, "data__holdout": 40, "evaluation__rows": 40}
    steps = {"schedule__max_steps": 24, "schedule__epochs": 1, "adapter": "lora", "optimizer__learning_rate": "1e-2"}
    result = reward(model, Path("generated:profiles"), tmp_path / "runs", **changes, **steps)
    low, _ = result["metrics"]["after"]["accuracy_interval"]
    assert low > 0.6, result["metrics"]["after"]


# --- the loss of a step ------------------------------------------------------------------------------------------


def tensors(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(next(Path(result["path"]).glob("*.safetensors")))


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("learn", ["pairs", "scores", "labels"])
def test_what_a_forward_pass_holds_changes_nothing(learn: str, model: Path, tmp_path: Path) -> None:
    make = {"pairs": scored_pair, "scores": scored, "labels": labelled}[learn]
    rows = write_rows(tmp_path / "rows.jsonl", 30, make)
    margin = {"reward__margin": 0.5} if learn == "pairs" else {}
    fixed = {"adapter": "lora", "reward__learn": learn, **margin, "optimizer__name": "sgd", "schedule__max_steps": 7}
    one, two, four, flat = (
        reward(model, rows, tmp_path / name, **fixed, batch__micro=micro, data__packing=packing)
        for name, micro, packing in (("one", 1, "true"), ("two", 2, "true"), ("four", 4, "true"), ("flat", 2, "false"))
    )
    for other in (two, four):
        assert distance(one, other) < 2e-6
        for mine, theirs in zip(lines(one), lines(other), strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
            assert mine["reward/mean"] == pytest.approx(theirs["reward/mean"], abs=1e-5)
    assert distance(one, flat) < 2e-6


def test_losses_are_those_of_trl_s_trainer(model: Path, pairs: Path, tmp_path: Path) -> None:
    """The stock RewardTrainer from the same start on the same rows, all of them in every step: the same curve."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from alignkit.config.sections import Data, Model
    from alignkit.data.pairs import prepare_pairs
    from alignkit.models.loading import load
    from alignkit.models.score_head import with_score_head

    section, tokenizer = Data(name=str(pairs), holdout=8, max_length=96), build_tokenizer()
    rows = whole(prepare_pairs(section, tokenizer, wants="preference").train, tokenizer)
    result = reward(
        model,
        pairs,
        tmp_path / "runs",
        batch__size=len(rows),
        schedule__max_steps=4,
        schedule__decay="constant",
        schedule__warmup=0,
        optimizer__learning_rate="1e-3",
        reward__center=0.05,
    )
    ids = [[[*row.trunk, *branch.ids] for branch in row.branches] for row in rows]
    start = with_score_head(load(Model(name=str(model), dtype="fp32")), seed=42).model
    arguments = RewardConfig(
        output_dir=str(tmp_path / "trl"),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=len(rows),
        max_steps=4,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to=[],
        gradient_checkpointing=False,
        center_rewards_coefficient=0.05,
        max_length=None,
    )
    data = Dataset.from_dict({"chosen_ids": [both[0] for both in ids], "rejected_ids": [both[1] for both in ids]})
    stock = RewardTrainer(model=start, args=arguments, train_dataset=data, processing_class=build_tokenizer())
    stock.train()
    theirs = [line["loss"] for line in stock.state.log_history if "loss" in line]
    assert [line["loss"] for line in lines(result)] == pytest.approx(theirs, abs=2e-4)


def test_options_reach_the_loss(model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "pairs.jsonl", 56, scored_pair)
    fixed = {"adapter": "lora", "schedule__max_steps": 12}
    plain = reward(model, rows, tmp_path / "runs", **fixed, reward__center=0)
    wide = reward(model, rows, tmp_path / "runs", **fixed, reward__center=0, reward__margin=1)
    assert wide["metrics"]["after"]["margin"] > plain["metrics"]["after"]["margin"] + 0.5
    # Away from 0 at the start, and pulled there.
    centred = reward(model, rows, tmp_path / "runs", **fixed, reward__center=0.5)
    assert abs(centred["metrics"]["after"]["mean"]) < abs(plain["metrics"]["after"]["mean"]) + 0.05
    assert distance(plain, centred) > 1e-3
    other = reward(model, rows, tmp_path / "runs", **fixed, reward__center=0, seed=1)
    assert distance(plain, other) > 1e-3


# --- what bad input gets -----------------------------------------------------------------------------------------


def refused(model: Path, data: Path, root: Path, **changes: Any) -> str:
    with pytest.raises(RequestError) as error:
        reward(model, data, root, **changes)
    return str(error.value)


def test_sentences_before_weights_are_read(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignkit.training.stage import GradientStage

    monkeypatch.setattr(GradientStage, "_load", lambda self: pytest.fail("weights were read"))
    runs = tmp_path / "runs"

    def write(name: str, make: Any) -> Path:
        return write_rows(tmp_path / f"{name}.jsonl", 24, make)

    same = write("same", lambda w, n, r: {**pair(w, n, r), "rejected": turn("assistant", w.upper())})
    assert "say the same, so there is nothing to prefer" in refused(model, same, runs)
    level = write("level", lambda w, n, r: {**scored(w, n, r), "score": 3})
    assert "have the score 3, so there is nothing to tell apart" in refused(model, level, runs, reward__learn="scores")
    nan = write("nan", lambda w, n, r: {**scored(w, n, r), "score": float("nan")})
    assert "NaN" in refused(model, nan, runs, reward__learn="scores")
    none = write("none", lambda w, n, r: {**scored(w, n, r), "score": "good"})
    assert "must be a number" in refused(model, none, runs, reward__learn="scores")
    wanted = write("wanted", lambda w, n, r: {**labelled(w, n, r), "label": True})
    assert "are wanted" in refused(model, wanted, runs, reward__learn="labels")
    assert "there is no column" in refused(model, write("labels", labelled), runs, reward__learn="scores") or True
    assert "chosen_score and rejected_score" in refused(model, pairs, runs, reward__margin=1)
    assert "reward.learn is labels" in refused(model, wanted, runs, reward__learn="labels", reward__margin=1)
    assert "best-fit" in refused(model, pairs, runs, data__packing="best-fit")
    assert "ranks and no scores" in refused(
        model,
        write("ranks", lambda w, n, r: {"prompt": w, "answers": [w, w + w], "ranks": [1, 2]}),
        runs,
        reward__learn="scores",
    )


def test_a_tokenizer_without_pad_and_eos(pairs: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    file = model / "tokenizer_config.json"
    config = {
        name: value for name, value in json.loads(file.read_text()).items() if name not in ("pad_token", "eos_token")
    }
    file.write_text(json.dumps(config))
    assert "neither a pad nor an eos token" in refused(model, pairs, tmp_path / "runs")


def test_a_reward_model_is_no_language_model(model: Path, pairs: Path, tmp_path: Path) -> None:
    """As the start of any stage, and as a reference; as a reward it is welcome."""
    for name, changes in (("lora", {"adapter": "lora"}), ("full", {})):
        scorer = Path(reward(model, pairs, tmp_path / "runs", schedule__max_steps=1, **changes)["path"])
        for recipe in ("lora", "dpo", "reward"):
            with pytest.raises(RequestError, match="is a reward model") as error:
                train(recipe, scorer, pairs, tmp_path / name)
            assert "model.name" in str(error.value)
        with pytest.raises(RequestError, match=r"dpo\.reference\.name.*is a reward model"):
            train("dpo", model, pairs, tmp_path / name, dpo__reference=scorer)
        found = train(
            "dpo",
            model,
            pairs,
            tmp_path / name,
            evaluation__reward=scorer,
            evaluation__rows=2,
            evaluation__max_new_tokens=3,
            schedule__max_steps=1,
            adapter="lora",
        )
        assert found["metrics"]["after"]["reward"] is not None


def test_an_architecture_without_a_classifier(pairs: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", "mamba", state_size=4)
    assert "can get no head for a reward" in refused(model, pairs, tmp_path / "runs")


def test_repository_recipe_is_shipped() -> None:
    assert (ROOT / "recipes" / "reward.yaml").exists()
