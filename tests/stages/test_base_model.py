"""From a base model without a template to one that chats: tokens added, trained, saved, and generation stops."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bases import save_base
from tests.stages.runs import ROOT, train, weights

SCORED = {"evaluation__rows": 4, "evaluation__samples": 0, "data__template": "chatml"}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, merged": {"save": "merged"},
    "lora+": {"adapter__lr_ratio": 4},
    "dora": {"adapter": "dora"},
    "pissa": {"adapter": "pissa", "adapter__rank": 4},
    "qlora": {"quantization": "nf4"},
    "qlora, merged": {"quantization": "nf4", "save": "merged"},
    "modules_to_save": {"adapter__modules_to_save": "[embed_tokens,lm_head]"},
}


def loss_of(place: str, chats: Path, quantization: str) -> float:
    """The held-out loss of a result, loaded as a stranger would."""
    from alignkit.config.sections import Data, Model, Quantization
    from alignkit.data.prepare import prepare
    from alignkit.evaluation.scoring import held_out_loss
    from alignkit.models.loading import load

    loaded = load(Model(name=place, dtype="fp32"), Quantization(kind=quantization))  # type: ignore[arg-type]
    rows = prepare(Data(name=str(chats), holdout=4, max_length=64), loaded.tokenizer).held_out
    return float(held_out_loss(loaded.model, rows, pad_id=0)["loss"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a head of its own. Read-only by convention."""
    return save_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_load_scores_what_the_run_measured(kind: str, base: Path, chats: Path, tmp_path: Path) -> None:
    changes = {**SCORED, "optimizer__learning_rate": "1e-2", **KINDS[kind]}
    result = train("lora", base, chats, tmp_path, **changes)
    metrics = result["metrics"]
    assert metrics["training"]["loss_last"] < metrics["training"]["loss_first"]
    merged = "merged" in kind
    found = loss_of(result["path"], chats, "nf4" if "qlora" in kind and not merged else "none")
    assert found == pytest.approx(metrics["after"]["loss"], abs=1e-3 if merged else 2e-4)
    log = (Path(result["run"]) / "log.txt").read_text()
    assert "added 2 tokens <|im_start|>, <|im_end|>; their embeddings are trained" in log
    card = (Path(result["path"]) / "README.md").read_text()
    assert ("resize_token_embeddings(259)" in card) == (not merged)


def test_full_fine_tuning_trains_the_new_rows_with_all_the_others(base: Path, chats: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    result = train("sft", base, chats, tmp_path, **SCORED)
    found = load_file(Path(result["path"]) / "model.safetensors")["model.embed_tokens.weight"]
    mean = load_file(base / "model.safetensors")["model.embed_tokens.weight"].mean(0)
    assert len(found) == 259
    assert all((row - mean).abs().max() > 1e-3 for row in found[257:])
    settings = json.loads((Path(result["path"]) / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [258, 0]
    assert json.loads((Path(result["path"]) / "config.json").read_text())["vocab_size"] == 259
    assert loss_of(result["path"], chats, "none") == pytest.approx(result["metrics"]["after"]["loss"], abs=2e-4)


@pytest.mark.parametrize(("recipe", "kind"), [("lora", "lora"), ("lora", "qlora"), ("sft", "lora")])
def test_resuming_is_exact(
    recipe: str, kind: str, base: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignkit.training.trainer import GuardedTrainer

    changes = {"data__template": "chatml", **KINDS[kind]}
    whole = weights(train(recipe, base, chats, tmp_path / "whole", **changes))
    untouched = GuardedTrainer._save_checkpoint

    class Killed(BaseException):
        pass

    def die(self: Any, model: Any, trial: Any) -> None:
        untouched(self, model, trial)
        if self.state.global_step == 3:
            raise Killed

    monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", die)
    with pytest.raises(Killed):
        train(recipe, base, chats, tmp_path / "killed", **changes)
    monkeypatch.setattr(GuardedTrainer, "_save_checkpoint", untouched)
    result = train(recipe, base, chats, tmp_path / "killed", **changes)
    assert result["metrics"]["training"]["resumed_from_step"] == 3
    assert weights(result) == whole


def test_the_next_run_starts_where_this_one_ended(base: Path, chats: Path, tmp_path: Path) -> None:
    first = train("lora", base, chats, tmp_path, **SCORED)
    second = train("lora", Path(first["path"]), chats, tmp_path, seed=3, **{**SCORED, "data__template": "null"})
    assert second["metrics"]["before"]["loss"] == pytest.approx(first["metrics"]["after"]["loss"], abs=1e-5)
    assert loss_of(second["path"], chats, "none") == pytest.approx(second["metrics"]["after"]["loss"], abs=2e-4)


def test_without_a_template_conversations_are_refused_with_the_way_out(base: Path, chats: Path, tmp_path: Path) -> None:
    from alignkit.errors import RequestError

    with pytest.raises(RequestError, match=r"data\.template=chatml"):
        train("lora", base, chats, tmp_path)
    assert not list(tmp_path.glob("lora-*"))


def test_plain_text_needs_no_template(base: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}+1=", "completion": str(i + 1)}) + "\n" for i in range(24)))
    assert Path(train("lora", base, rows, tmp_path)["path"]).exists()


def test_what_is_missing_is_known_without_torch(base: Path, chats: Path) -> None:
    code = (
        "import sys; from alignkit.journey import check\n"
        f"_, faults = check('lora', ['model={base}', 'data={chats}', 'data.holdout=4'])\n"
        "print(*faults, sep='\\n'); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and "Write data.template=chatml to install one" in done.stdout


def test_a_model_is_scored_with_a_template_too(
    base: Path, chats: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The loss before training: the same that the run measures."""
    from alignkit.cli.main import entry

    words = ["eval", str(base), f"data={chats}", "data.template=chatml", "model.dtype=fp32", "--json"]
    with pytest.raises(SystemExit) as end:
        entry([*words, "evaluation.exact_match=false", "evaluation.samples=0"])
    out, err = capfd.readouterr()
    assert end.value.code == 0, err
    # 259 tokens, two of them the mean of the others: nearly uniform
    assert json.loads(out)["loss"] == pytest.approx(5.557, abs=0.2)


def test_a_template_that_is_not_there_is_refused_at_once(base: Path, chats: Path, tmp_path: Path) -> None:
    from alignkit.errors import RequestError

    with pytest.raises(RequestError, match="Did you mean chatml"):
        train("lora", base, chats, tmp_path, data__template="chat-ml")


def counting_chats(path: Path, rows: int) -> Path:
    """Chats of one or two turns; the answer to a letter is that letter three times."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            messages = []
            for _ in range(rng.randint(1, 2)):
                letter = rng.choice("abcdef")
                messages.append({"role": "user", "content": letter})
                messages.append({"role": "assistant", "content": letter * 3})
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_a_base_learns_to_chat_and_to_stop(
    tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The whole journey through the real command line: without the end of turn, an answer would go on to the limit."""
    from alignkit.cli.main import entry

    # Weights as large as a trained model's: a frozen head of tiny rows could say nothing with confidence.
    shape = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.2}
    base = save_base(tmp_path / "base", tie_word_embeddings=tied, **shape)
    data = counting_chats(tmp_path / "chats.jsonl", 160)
    result = train(
        "lora",
        base,
        data,
        tmp_path / "runs",
        data__template="chatml",
        data__holdout=8,
        adapter__rank=32,
        batch__size=8,
        schedule__max_steps=250,
        checkpoint__every=250,
        optimizer__learning_rate="3e-3",
    )
    for letter in "adf":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{letter}\n".encode())))
        with pytest.raises(SystemExit) as end:
            entry(["chat", result["path"], "model.dtype=fp32", "--max-new-tokens", "20"])
        out, err = capfd.readouterr()
        assert (end.value.code, out) == (0, letter * 3 + "\n"), err
        assert "stopped after" not in err
