"""One tiny run of each family of stages: a few steps, with a checkpoint after every second."""

from __future__ import annotations

import json
from pathlib import Path

from tests.stages.dpo.preferences import write_pairs
from tests.tiny import save_tiny, write_chats

COMMON = [
    "model={here}/tiny",
    "model.dtype=fp32",
    "batch.size=8",
    "batch.micro=4",
    "checkpoint.every=2",
    "data.holdout=4",
    "evaluation.rows=0",
    "optimizer.learning_rate=1e-3",
]
CHATS, PAIRS = "data={here}/chats.jsonl", "data={here}/pairs.jsonl"
STEPS = ["schedule.max_steps=6"]
TRAINED: dict[str, tuple[str, list[str]]] = {
    "sft": ("sft", [CHATS, *STEPS]),
    "sft, dropout": ("sft", [CHATS, *STEPS, "model={here}/dropping"]),
    "lora": ("lora", [CHATS, *STEPS]),
    "lora, dropout": ("lora", [CHATS, *STEPS, "adapter.dropout=0.2"]),
    "dpo": ("dpo", [PAIRS, *STEPS]),
    "reward": ("reward", [PAIRS, *STEPS]),
    "distill": ("distill", [CHATS, *STEPS, "teacher={here}/teacher"]),
    "extend-context": (
        "yarn",
        ["data={here}/long.jsonl", "model={here}/short", "context.length=256", *STEPS],
    ),
    "rlhf": (
        "rloo",
        [
            CHATS,
            "rlhf.rewards=[{name: length, target: 8}]",
            "rlhf.samples=2",
            "rlhf.prompts=4",
            "rlhf.max_new_tokens=4",
            *STEPS,
        ],
    ),
}
MERGED = {"merge": ("merge", ["merge.method=linear", "merge.models=[{here}/tiny,{here}/teacher]"])}


def prepare(here: Path) -> None:
    """Models and data of all families."""
    save_tiny(here / "tiny")
    save_tiny(here / "dropping", attention_dropout=0.2)
    save_tiny(here / "teacher", seed=1)
    save_tiny(here / "short", max_position_embeddings=128)
    write_chats(here / "chats.jsonl", 28)
    write_pairs(here / "pairs.jsonl", 28)
    texts = (" ".join(["abc", "de", "fgh", "ijk"][(i * j * j) % 4] for j in range(100 + 5 * i)) for i in range(28))
    (here / "long.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts), encoding="utf-8")


def request(family: str, here: Path, root: Path) -> tuple[str, list[str]]:
    """The recipe's name and its words for a run below ``root``."""
    name, own = (TRAINED | MERGED)[family]
    given = [*(COMMON if family in TRAINED else ()), *own, f"run.root={root}"]
    last = {word.partition("=")[0]: word for word in given}
    return name, [word.replace("{here}", str(here)) for word in last.values()]
