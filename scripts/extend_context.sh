#!/usr/bin/env bash
# Context extension in miniature, from scratch: a byte-level model of 3.3 million random weights learns to read 256 bytes
# and to look up a number in them, and is stretched 4 and 8 times. What it shows (scripts/extend_context_report.py prints
# it, and ends with 1 where one is not so):
#
#   without training   perplexity by length of each method, at the new window and within the old one
#   with training      at a fifth of the steps that the model itself had: perplexity does not rise with the length up to
#                      the new window, the passkey is found at every depth, short perplexity stays
#   yarn and linear    steps to the same held-out loss
#
#     scripts/extend_context.sh BOOK.txt [OUT]         a long text in plain letters
#
# It can be killed anywhere and started again. At most 15 minutes on two CPU cores with bf16. STEPS (of the model itself,
# a multiple of 20) and SUITE (further keys of the evaluation) can be set.
set -euo pipefail

book=$1
out=${2:-runs/extend-context-miniature}
here=$(dirname "$0")
steps=${STEPS:-880}
fifth=$((steps / 5))
often=$((fifth / 20 > 0 ? fifth / 20 : 1))
mkdir -p "$out"

rows() { # name, window, rows, and what else retrieval_rows.py takes
    [ -f "$out/$1.jsonl" ] || python "$here/retrieval_rows.py" "$book" "$out/$1.jsonl" --window "$2" --rows "$3" "${@:4}"
}
rows look 192 $((steps * 5)) --book-share 0
rows read 256 $((steps * 10)) --book-share 0.4
rows long4 1024 $((steps * 3)) --book-share 0.3 --shortest 0.2
rows long8 2048 $((steps * 3)) --book-share 0.2 --shortest 0.1
[ -d "$out/init" ] || python "$here/byte_model.py" "$out/init"

learning=(
    run.root="$out/runs" data.holdout=64 optimizer.beta2=0.98 optimizer.weight_decay=0.05 checkpoint.every=100000
)
# The model: a quarter of its steps on short rows of questions alone, then book and questions.
look=$(alignkit train recipe=sft model="$(realpath "$out/init")" data="$out/look.jsonl" "${learning[@]}" \
    data.max_length=256 batch.size=16 schedule.max_steps=$((steps / 4)) schedule.warmup=0.25 schedule.decay=constant \
    optimizer.learning_rate=3e-3 evaluation.rows=0)
base=$(alignkit train recipe=sft model="$look" data="$out/read.jsonl" "${learning[@]}" \
    data.max_length=256 batch.size=12 schedule.max_steps=$((steps * 3 / 4)) schedule.warmup=0.05 schedule.decay=cosine \
    optimizer.learning_rate=3e-3 evaluation.rows=0)

stretch() { # times, method, and further keys
    alignkit train recipe=extend-context adapter=none model="$base" "context.also_train=[]" run.root="$out/runs" \
        context.length=$((256 * $1)) context.method="$2" \
        evaluation.suite.text="$out/read.jsonl.held-out.txt" "evaluation.suite.lengths=[128,256,512,1024,2048]" \
        evaluation.suite.needles=0 evaluation.suite.chains=0 evaluation.suite.windows=8 evaluation.suite.stride=64 \
        ${SUITE:-} "${@:3}"
}
learn() { # times, method, rows a step, passkeys at each depth
    stretch "$1" "$2" data="$out/long$1.jsonl" "${learning[@]}" data.holdout=8 batch.size="$3" \
        schedule.max_steps="$fifth" schedule.warmup=0.05 schedule.decay=linear optimizer.learning_rate=1.5e-3 \
        memory.gradient_checkpointing=false evaluation.suite.passkeys="$4" evaluation.every="$often"
}

results=$out/results.txt
: >"$results"
for times in 4 8; do
    for method in linear ntk dynamic yarn; do
        model=$(stretch $times $method context.train=false evaluation.suite.passkeys=0)
        echo "untrained $times $method $model" >>"$results"
    done
done
for kind in "4 yarn 3 20" "4 linear 3 0" "8 yarn 2 20"; do
    # shellcheck disable=SC2086
    model=$(learn $kind)
    read -r times method _ <<<"$kind"
    echo "trained $times $method $model" >>"$results"
done
python "$here/extend_context_report.py" "$results"
