"""scripts/rlhf.sh on a tiny model: pairs, a reward model from them, and a policy from that."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.data_profiles.test_scripts import run
from tests.tiny import CHATML, build_model


def save_reader(directory: Path) -> Path:
    """A tiny model with a vocabulary of words, to which the generated rows are as short as to a real one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from alignkit.data.profiles import generate

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    texts = [turn["content"] for row in generate(200, "train") for side in row.values() for turn in side]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=specials[1], eos_token=specials[2], pad_token=specials[0]
    )
    fast.chat_template = CHATML
    build_model(vocab=len(fast)).save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


def test_the_chain_runs_and_says_what_was_gained(tmp_path: Path) -> None:
    tiny, runs = save_reader(tmp_path / "llama"), tmp_path / "runs"
    words = ["rlhf.prompts=4", "rlhf.samples=2", "rlhf.max_new_tokens=8", "batch.size=8", "schedule.max_steps=2"]
    chosen = {"START": str(tiny), "ALGORITHMS": "rloo"}
    lines = run("rlhf.sh", str(runs), *words, "evaluation.rows=8", folder=tmp_path, **chosen)
    assert [line.split("|")[1].strip() for line in lines] == ["algorithm", "---", "rloo"]
    assert len({line.count("|") for line in lines}) == 1
    # A model of random weights writes no JSON, before or after two steps.
    share = r"0% \(0–\d\d\)"
    assert re.search(rf"\| rloo \| {share} \| {share} \| \+0 \(\+0 to \+0\) \| -?\d\.\d\d → ", lines[2])
    [manifest] = [json.loads(file.read_text()) for file in runs.glob("reward-*/manifest.json")]
    assert manifest["metrics"]["after"]["accuracy"] > 0.8
