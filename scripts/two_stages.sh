#!/usr/bin/env bash
# Two stages in the shell: an adapter on the tickets task, a second one on top of it, merged at the end.
# It can be killed anywhere and started again: complete runs return at once, half-done ones resume.
#
#     scripts/two_stages.sh [key=value …]       e.g. scripts/two_stages.sh schedule.max_steps=4 evaluation.rows=4
set -euo pipefail

first=$(alignkit train recipe=quickstart "$@")
second=$(alignkit train recipe=lora model="$first" data=tickets seed=1 save=merged "$@")
alignkit runs lineage "$second"
