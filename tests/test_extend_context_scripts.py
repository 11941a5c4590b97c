"""The demonstration of longer contexts: its rows, and a report that fails where one of its claims does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (128, 256, 512, 1024, 2048)
Curve = tuple[float, ...]
BEFORE: Curve = (5.0, 4.8, 9.0, 20.0, 40.0)
UNTRAINED: dict[str, Curve] = {
    "linear": (9.0, 9.0, 9.0, 9.0, 9.0),
    "ntk": (5.2, 5.0, 5.0, 6.0, 8.0),
    "dynamic": (5.0, 4.8, 5.0, 5.5, 6.0),
    "yarn": (5.1, 4.9, 4.9, 5.0, 5.2),
}
TRAINED: Curve = (5.0, 4.8, 4.7, 4.7, 4.7)


def script(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=120)


def perplexities(curve: Curve) -> dict[str, Any]:
    points = [{"length": length, "perplexity": value} for length, value in zip(LENGTHS, curve, strict=True)]
    cells = [{"length": length, "depth": depth, "found": 20, "asked": 20} for length in LENGTHS for depth in (0, 0.5)]
    return {"perplexity": points, "passkey": cells}


def results(place: Path) -> dict[str, dict[str, Any]]:
    """Runs of which all claims hold, by the start of their line; with the losses of the trained ones."""
    runs: dict[str, dict[str, Any]] = {}
    for times in (4, 8):
        for method, curve in UNTRAINED.items():
            runs[f"untrained {times} {method}"] = {"after": perplexities(curve)}
        runs[f"trained {times} yarn"] = {"after": perplexities(TRAINED), "losses": {20: 1.1, 40: 0.9, 100: 0.8}}
    runs["trained 4 linear"] = {"after": perplexities(TRAINED), "losses": {20: 1.5, 40: 1.2, 100: 0.95}}
    return runs


def written(runs: dict[str, dict[str, Any]], place: Path) -> Path:
    lines = []
    for name, run in runs.items():
        folder = place / name.replace(" ", "-")
        folder.mkdir()
        losses = run.get("losses", {})
        metrics = {"before": perplexities(BEFORE), "after": run["after"], "training": {"steps": len(losses)}}
        (folder / "manifest.json").write_text(json.dumps({"metrics": metrics}))
        said = [json.dumps({"step": step, "held_out_loss": loss}) + "\n" for step, loss in losses.items()]
        (folder / "metrics.jsonl").write_text("".join(said))
        lines.append(f"{name} {folder}/model\n")
    file = place / "results.txt"
    file.write_text("".join(lines))
    return file


def spoil(run: str, value: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, dict[str, Any]]], None]:
    return lambda runs: value(runs[run])


def both(*faults: Callable[[dict[str, dict[str, Any]]], None]) -> Callable[[dict[str, dict[str, Any]]], None]:
    def apply(runs: dict[str, dict[str, Any]]) -> None:
        for fault in faults:
            fault(runs)

    return apply


def curve(*values: float) -> Callable[[dict[str, Any]], None]:
    return lambda run: run.update(after=perplexities(values))


def lost_passkey(run: dict[str, Any]) -> None:
    for cell in run["after"]["passkey"][::2]:  # at one depth
        cell["found"] = 18


FAULTS = {
    "yarn, 4 times: perplexity rises from 512 to 1,024": spoil("trained 4 yarn", curve(5.0, 4.8, 4.7, 4.9, 4.9)),
    "yarn, 8 times: perplexity rises from 1,024 to 2,048": spoil("trained 8 yarn", curve(5.0, 4.8, 4.7, 4.7, 5.0)),
    "perplexity at 256 bytes rose": spoil("trained 8 yarn", curve(5.0, 4.95, 4.9, 4.9, 4.9)),
    "passkeys are found less often": spoil("trained 4 yarn", lost_passkey),
    "not within 40% of linear's steps": spoil("trained 4 yarn", lambda run: run.update(losses={41: 0.95, 100: 0.8})),
    "ntk, 8 times, untrained: no better": both(
        spoil("untrained 8 linear", curve(99.0, 99.0, 99.0, 99.0, 99.0)),
        spoil("untrained 8 ntk", curve(5.2, 5.0, 5.0, 6.0, 41.0)),
    ),
    "yarn, 4 times, untrained: worse than linear at 1,024": spoil("untrained 4 yarn", curve(5.0, 5.0, 5.0, 9.1, 9.1)),
    "dynamic, 4 times, untrained: changes": spoil("untrained 4 dynamic", curve(5.0, 4.9, 5.0, 5.5, 6.0)),
}


def test_the_report_shows_what_holds(tmp_path: Path) -> None:
    done = script("extend_context_report.py", written(results(tmp_path), tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all claims hold" in done.stdout
    assert "after 40: 40%" in done.stdout


@pytest.mark.parametrize("sentence", FAULTS)
def test_the_report_fails_where_one_claim_does(sentence: str, tmp_path: Path) -> None:
    runs = results(tmp_path)
    FAULTS[sentence](runs)
    done = script("extend_context_report.py", written(runs, tmp_path))
    assert done.returncode == 1
    wrong = done.stdout.partition("NOT so:")[2].strip().splitlines()
    assert len(wrong) == 1 and sentence in wrong[0], done.stdout


def test_the_report_asks_for_all_runs(tmp_path: Path) -> None:
    runs = results(tmp_path)
    del runs["trained 8 yarn"]
    done = script("extend_context_report.py", written(runs, tmp_path))
    assert done.returncode == 1 and "lacks trained 8 yarn" in done.stderr


def test_rows_to_learn_reading_from(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("".join(f"line {number} of a long play\n" for number in range(400)))
    text, found = book.read_text(), {}
    for window in (128, 256):
        out = tmp_path / f"{window}.jsonl"
        done = script("retrieval_rows.py", book, out, "--window", window, "--rows", 300, "--book-share", 0.4)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line)["text"] for line in out.read_text().splitlines()]
        assert len(rows) == 300 and max(map(len, rows)) <= window - 2 and all(row.isascii() for row in rows)
        pieces = [row for row in rows if row in text]
        assert 90 < len(pieces) < 150
        keys = [re.findall(r"number is (\d{5})", row) for row in rows if row not in pieces]
        assert all(len(set(own)) == 1 and len(own) > 1 for own in keys)
        held_out = Path(f"{out}.held-out.txt").read_text()
        assert text.endswith(held_out) and not any(piece[-40:] in held_out for piece in pieces)
        found[window] = sum(row.startswith("A secret") for row in rows)
    assert found[128] == 0 and found[256] > 40  # a passkey with its answer does not fit into the short window
    gaps = {row.count(".") for row in rows if row.startswith("The secret")}
    assert len(gaps) > 3  # questions lie at different distances


def test_a_model_whose_layers_are_local_by_turns(tmp_path: Path) -> None:
    done = script("byte_model.py", tmp_path / "model", "--hidden", 32, "--local", 4)
    assert done.returncode == 0, done.stderr
    causal: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert causal.config.layer_types == ["sliding_attention", "full_attention"] * 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("naïve").input_ids == list("naïve".encode())
    one, other = torch.tensor([list(b"a long text")]), torch.tensor([list(b"A long text")])
    with torch.no_grad():
        states = [causal.model(ids, output_hidden_states=True).hidden_states[1][0] for ids in (one, other)]
    differs = (states[0] - states[1]).abs().amax(-1) > 1e-6
    assert differs[:4].all() and not differs[4:].any()  # the first layer sees four bytes
