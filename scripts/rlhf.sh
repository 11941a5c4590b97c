#!/usr/bin/env bash
# RLHF from end to end: a start model, a reward model learned from pairs, and policies that PPO, RLOO and GRPO train with
# it. The start is SmolLM2-135M after a short adapter run on both kinds of answers, chatty ones twice as often as short
# JSON: it has both habits. The pairs prefer the JSON (`data=profiles`), the reward model learns that from them, and the
# policies learn it from the reward model alone. Judged by a metric that nothing learns from, is the whole answer JSON?,
# on answers drawn at temperature 1 to held-out questions about other people in other words. Prints a table of the
# policies on stdout, and on stderr how often the reward model is right on held-out pairs. About 18 minutes on two CPU
# cores with bf16; run it again after an interruption and it goes on.
#
#   scripts/rlhf.sh [DIRECTORY OF RUNS [key=value …]]
#
# In the environment, START is another start model and REWARD another reward model (a path or a run each), and
# ALGORITHMS="ppo online-dpo" takes other algorithms; key=value goes to all policies.
set -euo pipefail
runs=${1:-runs}
shift $(($# > 0))

both='[{name: generated:profiles, weight: 1}, {name: generated:profiles, columns: {completion: rejected}, weight: 2}]'
start=${START:-$(
    alignkit train recipe=lora model=smollm2-135m "data.sources=$both" data.rows=360 data.max_length=160 data.holdout=0 \
        evaluation.rows=0 optimizer.learning_rate=1e-3 batch.size=8 save=merged run.root="$runs"
)}

# An adapter on the start: it judges beside the policy, on the same weights in memory.
told='
import json, sys
found = json.load(sys.stdin)
after = found["metrics"]["after"]
right, (low, high) = after["accuracy"], after["accuracy_interval"]
share = f"{100 * right:.0f}% (95% interval {100 * low:.0f} to {100 * high:.0f}%)"
print("The reward model is right on", share, "of", after["rows"], "held-out pairs.", file=sys.stderr)
print(found["path"])
'
reward=${REWARD:-$(
    alignkit train recipe=reward model="$start" data=profiles data.rows=160 adapter=lora optimizer.learning_rate=2e-4 \
        batch.size=8 evaluation.rows=100 run.root="$runs" --json | python -c "$told"
)}

# What all policies share: 10 rollouts of 64 answers.
shared=(
    model="$start" data=profiles data.rows=160 adapter=lora run.root="$runs"
    rlhf.rewards="$reward" rlhf.true_reward=json
    rlhf.prompts=16 rlhf.samples=4 rlhf.max_new_tokens=80 batch.size=32
    evaluation.rows=64 evaluation.batch=64 evaluation.samples=0
)

line='
import json, sys

def share(value, interval):
    return f"{100 * value:.0f}% ({100 * interval[0]:.0f}–{100 * interval[1]:.0f})"

found = json.load(sys.stdin)["metrics"]
before, after = found["before"], found["after"]
low, high = after["change_interval"]
near, far = after["kl_interval"]
cells = [
    sys.argv[1],
    share(before["true_reward"], before["true_reward_interval"]),
    share(after["true_reward"], after["true_reward_interval"]),
    "{:+.0f} ({:+.0f} to {:+.0f})".format(100 * after["change"], 100 * low, 100 * high),
    "{:.2f} → {:.2f}".format(before["reward"], after["reward"]),
    "{:.1f} ({:.1f} to {:.1f})".format(after["kl"], near, far),
    "{:.0f} → {:.0f}".format(before["length"], after["length"]),
    "{:.0f}".format(found["training"]["seconds"]),
]
print("|", " | ".join(cells), "|")
'
echo '| algorithm | short JSON before | after | points gained | reward | KL to the start, nats an answer | tokens | seconds |'
echo '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |'
for algorithm in ${ALGORITHMS:-ppo rloo grpo}; do
    # PPO passes four times over a rollout where the others pass once: its steps are smaller.
    case $algorithm in
    ppo) rate=1e-4 ;;
    *) rate=3e-4 ;;
    esac
    found=$(alignkit train recipe=rlhf rlhf.algorithm="$algorithm" optimizer.learning_rate="$rate" "${shared[@]}" \
        --json "$@")
    python -c "$line" "$algorithm" <<<"$found"
done
