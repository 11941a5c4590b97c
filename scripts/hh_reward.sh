#!/usr/bin/env bash
# A reward model on pairs of real conversations: SmolLM2-135M with LoRA learns which answer Anthropic's raters found the
# less harmful one, and over 500 pairs that it never sees say how often it is right, with the 95% interval. Prints the run's
# model. About 15 minutes on two CPU cores with bf16; run it again after an interruption and it goes on.
#
#   scripts/hh_reward.sh PAIRS.jsonl [key=value …]       e.g. scripts/hh_reward.sh hh.jsonl optimizer.learning_rate=1e-4
#
# PAIRS: a file with `chosen` and `rejected` (and `prompt`), as messages or as Anthropic's Human:/Assistant: text. Some of
# them are offensive by design.
set -euo pipefail
pairs=${1:?usage: scripts/hh_reward.sh PAIRS.jsonl [key=value …]}
shift

words=(
    recipe=reward model=smollm2-135m data="$pairs" adapter=lora
    optimizer.learning_rate=2e-4 batch.size=16 schedule.epochs=1
    data.max_length=512 data.overlength=truncate    # a longer talk loses its earliest turns
    data.holdout=520 evaluation.rows=520    # ±4.3 points of accuracy; a few rows are too long to be used
    evaluation.samples=0
)
exec alignkit train "${words[@]}" "$@"
