#!/usr/bin/env bash
# What distillation gains on a real model. SmolLM2-135M learns to turn support messages into JSON (`data=tickets`) and is
# the teacher; students of half of its layers learn the same rows in one pass, all with the same tokens and each from
# three seeds:
#
#   distilled, layers   the teacher without its 15 least important layers, trained on the teacher's distribution
#   plain SFT, layers   the same start, trained on the data's tokens alone
#   distilled, random   the same shape with new weights, trained on the teacher's distribution
#
# The teacher speaks once, into a cache (recipe=teacher-cache), and all students learn from that. Prints two tables on
# stdout: every run, and what the three differ by. At most 20 minutes on two CPU cores with bf16; run it again after an
# interruption and it goes on.
#
#   scripts/distill.sh [DIRECTORY OF RUNS [key=value …]]
#
# In the environment, TEACHER is another teacher (a path or a run), ROWS the training rows of the students, SEEDS their
# seeds; key=value goes to all students.
set -euo pipefail
runs=${1:-runs}
shift $(($# > 0))
rows=${ROWS:-320}

teacher=${TEACHER:-$(
    # As recipe=quickstart, which says what the teacher itself has learned.
    alignkit train recipe=lora model=smollm2-135m data=tickets optimizer.learning_rate=2e-3 batch.size=4 \
        evaluation.rows=0 save=merged run.root="$runs"
)}
words=(data=tickets data.rows="$rows" run.root="$runs")
cache=$(alignkit train recipe=teacher-cache teacher="$teacher" "${words[@]}")

# A half-emptied model is far from any minimum: its learning rate is twenty times that of the recipe.
words+=(
    recipe=distill teacher="$teacher" distill.cache="$cache" distill.student.kind=depth distill.student.fraction=0.5
    optimizer.learning_rate=1e-3 schedule.epochs=1 batch.size=4 checkpoint.every=100000
    evaluation.rows=48 evaluation.batch=48 evaluation.max_new_tokens=64 evaluation.samples=1
)
found=()
for seed in ${SEEDS:-1 2 3}; do
    found+=("$seed $(alignkit train "${words[@]}" seed="$seed" distill.baseline=true --json "$@")")
    found+=("$seed $(alignkit train "${words[@]}" seed="$seed" distill.student.init=random --json "$@")")
done

tables='
import json, statistics, sys
from alignkit.evaluation.cost import Cost
from alignkit.evaluation.scores import wilson
from alignkit.evaluation.several import kept

LAYERS, PLAIN, RANDOM = "distilled, layers", "plain SFT, layers", "distilled, random"
loss, right, tokens = {}, {}, {}
teacher = None

print("| model | seed | loss | exact match | of the teacher\x27s | parameters | tokens read/s | tokens written/s |")
print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")

def line(name, seed, one, part):
    scores, cost = one["scores"], Cost.from_dict(one["cost"])
    cells = [name, seed, "{:.3f}".format(float(scores["loss"])), "{} of {}".format(scores["correct"], scores["graded"])]
    cells += ["" if part is None else f"{100 * part:.0f}%", *(figure.text for figure in cost.figures())]
    del cells[6]  # memory of the weights: all are in one format
    print("|", " | ".join(map(str, cells)), "|")

for run in sys.stdin:
    seed, text = run.split(" ", 1)
    metrics = json.loads(text)["metrics"]
    models = metrics["models"]
    parts = kept(models)
    if teacher is None:
        teacher = models["teacher"]
        line("teacher", "", teacher, None)
    drawn = metrics["distill"]["student"]["init"] == "random"
    rows = {RANDOM if drawn else LAYERS: ("student after", metrics["training"])}
    if not drawn:
        rows[PLAIN] = ("plain SFT", metrics["baseline"]["training"])
    for name, (column, training) in rows.items():
        line(name, seed, models[column], parts.get(column))
        scores = models[column]["scores"]
        loss.setdefault(name, {})[seed] = float(scores["loss"])
        right.setdefault(name, {})[seed] = scores["correct"], scores["graded"]
        tokens.setdefault(name, {})[seed] = training["labelled_tokens"]

print()
print("| model | loss, mean (spread of the seeds) | exact match of all seeds (95% interval) | labelled tokens |")
print("| --- | ---: | ---: | ---: |")
for name in loss:
    values = list(loss[name].values())
    correct, graded = (sum(one[at] for one in right[name].values()) for at in (0, 1))
    low, high = wilson(correct, graded)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    seen = "/".join(map(str, sorted(set(tokens[name].values()))))
    print(f"| {name} | {statistics.mean(values):.3f} ({spread:.3f})", end=" ")
    print(f"| {100 * correct / graded:.0f}% ({100 * low:.0f}–{100 * high:.0f}) | {seen} |")

print()
for what, one, other in (
    ("layer initialisation and random", LAYERS, RANDOM),
    ("distillation and plain SFT", LAYERS, PLAIN),
):
    less = [loss[other][seed] - loss[one][seed] for seed in loss[one]]
    more = [right[one][seed][0] - right[other][seed][0] for seed in loss[one]]
    better = sum(gain > 0 for gain in less), sum(gain > 0 for gain in more)
    print(f"{what}: the first has the lower loss in {better[0]} of {len(less)} seeds (by {statistics.mean(less):.3f} on")
    print(f"average) and more exact matches in {better[1]} ({statistics.mean(more):+.1f} rows on average).")
'
printf '%s\n' "${found[@]}" | python -c "$tables"
