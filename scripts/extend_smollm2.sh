#!/usr/bin/env bash
# SmolLM2-135M-Instruct from 8,192 to 16,384 tokens by YaRN: perplexity by length and passkeys of the model as it is, of the
# stretched one without training, and after a few steps of LoRA on a long text. Long inputs take a CPU minutes, so the
# counts are small: STEPS of one row each, WINDOWS of text and PASSKEYS at each depth can be raised where there is a GPU.
# One book is cut into even pieces a little shorter than the window, so 16,000 tokens are the longest that is measured.
#
#     scripts/extend_smollm2.sh BOOK.txt [DIRECTORY OF RUNS [key=value …]]
#
# Prints the paths of both models; their tables stand on the terminal and in their runs (metrics in manifest.json).
set -euo pipefail

book=$1
runs=${2:-runs}
shift $(($# > 1 ? 2 : 1))
words=(
    recipe=extend-context model=smollm2-135m data="$book" data.holdout=1 run.root="$runs" context.length=16384
    "evaluation.suite.lengths=[2048,8192,16000]" evaluation.suite.windows="${WINDOWS:-2}"
    evaluation.suite.depths=3 evaluation.suite.passkeys="${PASSKEYS:-1}"
    evaluation.suite.needles=0 evaluation.suite.chains=0
)
alignkit train "${words[@]}" context.train=false "$@"
alignkit train "${words[@]}" schedule.max_steps="${STEPS:-4}" schedule.warmup=1 batch.size=1 \
    optimizer.learning_rate=2e-4 "$@"
