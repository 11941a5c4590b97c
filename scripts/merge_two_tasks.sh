#!/bin/sh
# Two adapters of SmolLM2-135M, one for each of two small tasks, merged by four methods; each parent and each merge is
# asked both tasks. Prints a table of exact matches on stdout. About half an hour on two CPU cores; run it again after an
# interruption and it goes on.
#
#   scripts/merge_two_tasks.sh [DIRECTORY OF RUNS]
set -eu
runs=${1:-runs}

tickets=$(alignkit train recipe=quickstart run.root="$runs")
notes=$(alignkit train recipe=quickstart data=appointments run.root="$runs")

merged() {
    alignkit train recipe=merge "merge.models=[$tickets,$notes]" merge.into=model run.root="$runs" "$@"
}

# The exact matches of a model on 100 held-out rows of a task.
score() {
    alignkit eval "$1" "data=$2" evaluation.rows=100 evaluation.max_new_tokens=64 -q --json |
        python -c 'import json, sys; found = json.load(sys.stdin); print(found["correct"], "of", found["graded"])'
}

line() {
    printf '| %s | %s | %s |\n' "$1" "$(score "$2" tickets)" "$(score "$2" appointments)"
}

echo '| model | tickets | appointments |'
echo '| --- | ---: | ---: |'
line 'SmolLM2-135M-Instruct' smollm2-135m
line 'adapter for tickets' "$tickets"
line 'adapter for appointments' "$notes"
line 'linear' "$(merged merge.method=linear)"
line 'slerp, t 0.5' "$(merged merge.method=slerp merge.t=0.5)"
line 'task arithmetic, weights 0.7' "$(merged merge.method=task_arithmetic merge.weight=0.7 base=smollm2-135m)"
line 'ties, density 0.5, λ 1.2' "$(merged merge.method=ties merge.density=0.5 merge.scaling=1.2 base=smollm2-135m)"
line 'dare_ties, density 0.7' "$(merged merge.method=dare_ties merge.density=0.7 base=smollm2-135m)"
