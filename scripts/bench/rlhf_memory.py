"""Peak memory of PPO with a LoRA policy beside that of LoRA SFT on SmolLM2, at the same lengths.

    python scripts/bench/rlhf_memory.py [--prompt 128] [--answer 128] [--batch 8] [--samples 1] [--steps 2]

Both learn on rows of as many tokens, `--prompt` and `--answer` together, `--batch` of them in a forward pass and in a
step, with the same rank. PPO draws its answers, reads them as policy and as reference, has values, and is rewarded by a
function. With one answer to a prompt it shares nothing; prompts are lists that go on and on, so that answers do not end
early (their mean length is printed). Each side is a process of its own, and what counts is the largest resident set of
it. `--small` runs all of it on a two-layer model, to see that the script works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rlhf_speed import ALPHA, LEARNING_RATE, RANK, SEED, plain_model

GOAL = 1.3


def rows_of(tokenizer: Any, count: int, prompt: int, answer: int) -> list[dict[str, Any]]:
    """Plain prompts and completions of about so many tokens, all different."""
    text = " ".join(f"number {n} follows {n - 1}" for n in range(1, count * (prompt + answer)))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    size, rows = prompt + answer, []
    for row in range(count):
        own = ids[row * size : (row + 1) * size]
        rows.append({"prompt": tokenizer.decode(own[:prompt]), "completion": tokenizer.decode(own[prompt:])})
    return rows


def peak(recipe: list[str], model: str, data: Path, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Bytes and seconds of `alignkit train`, as a person types it."""
    command = [
        sys.executable, "-m", "alignkit", "train", *recipe, "adapter=lora", f"model={model}", f"data={data}",
        f"batch.size={options.batch}", f"batch.micro={options.batch}", f"adapter.rank={RANK}",
        f"adapter.alpha={ALPHA}", f"optimizer.learning_rate={LEARNING_RATE}", f"schedule.max_steps={options.steps}",
        "memory.gradient_checkpointing=false", "evaluation.rows=0", "data.holdout=0", f"seed={SEED}",
        f"run.root={out}", "--json", "-q",
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    result = json.loads(done.stdout)
    lines = (Path(result["run"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    lengths = [line["rollout/length"] for line in map(json.loads, lines) if "rollout/length" in line]
    return {**result["metrics"]["training"], "length": sum(lengths) / len(lengths) if lengths else options.answer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--batch", type=int, default=8, help="rows of a forward pass and of a step")
    parser.add_argument("--samples", type=int, default=1, help="answers to a prompt")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--model", help="a plain model directory; without it, SmolLM2-135M-Instruct")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        model = options.model or plain_model(place / "model", options.small)
        from transformers import AutoTokenizer

        os.environ["HF_HUB_OFFLINE"] = "1"
        tokenizer = AutoTokenizer.from_pretrained(model)
        rows = rows_of(tokenizer, options.batch * options.steps, options.prompt, options.answer)
        data = place / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        sft = peak(["recipe=lora"], model, data, options, place / "sft")
        ppo = peak(
            [
                "recipe=rlhf", "rlhf.algorithm=ppo", "rlhf.rewards=length", "rlhf.epochs=1",
                f"rlhf.max_new_tokens={options.answer}", f"rlhf.prompts={options.batch // options.samples}",
                f"rlhf.samples={options.samples}",
            ],
            model, data, options, place / "ppo",
        )  # fmt: skip
    print(f"{'':<10}{'peak GB':>9}{'seconds':>9}{'tokens':>9}{'an answer':>11}")
    for name, run in (("LoRA SFT", sft), ("LoRA PPO", ppo)):
        size = run["peak_memory_bytes"] / 2**30
        print(f"{name:<10}{size:>9.2f}{run['seconds']:>9.1f}{run['tokens']:>9}{run['length']:>11.1f}")
    ratio = ppo["peak_memory_bytes"] / sft["peak_memory_bytes"]
    print(f"PPO's peak is {ratio:.2f} times that of SFT (goal: at most {GOAL})")


if __name__ == "__main__":
    main()
