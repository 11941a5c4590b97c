"""Merges of a base and two fine-tunes of 1.10 B parameters in bf16: alignkit beside mergekit, in turn.

    python scripts/bench/merge_speed.py [--mergekit VENV/bin/python] [--inputs DIR] [--rounds 1] [--methods linear,…]
                                        [--layers 22] [--compare] [--json] [--small]

Both sides read the same YAML file, one that mergekit was made for, and write shards of 600 MB; mergekit with its best
flags (--lazy-unpickle --async-write --write-threads 2). CPU seconds are user and system of the whole process, imports,
digests of the output and all, by the operating system's accounting; the peak is its largest resident memory. The
digests of the inputs are cached and the files lie in the page cache: each side's first method runs once before the
clock starts. Each figure is the median of the rounds. Without --mergekit, alignkit runs alone.

--inputs keeps the models (6.6 GB, written by the first run) for the next time. --layers 44 doubles the model, to see
that memory does not grow. --compare says how far the two results differ, in differing elements and in steps of bf16;
the random methods drop different elements, so theirs is no parity. --small takes models of 0.9 M parameters, to see
that the script works.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARD_MB = 600
NAMES = ("base", "ft_a", "ft_b")
LIMITS = {"linear": 3, "task_arithmetic": 3, "slerp": 6, "ties": 6, "dare_ties": 6}
"""How many times less CPU than mergekit is the goal."""


def configuration(method: str, inputs: Path) -> dict[str, Any]:
    """What mergekit's YAML says for one method. Models by absolute path, so that neither side takes them for hubs'."""
    base, first, second = (str(inputs / name) for name in NAMES)
    shares: list[dict[str, Any]] = [{"weight": 0.6}, {"weight": 0.4}]
    if method in ("ties", "dare_ties"):
        shares = [one | {"density": 0.5} for one in shares]
    said: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    if method == "slerp":
        return said | {"base_model": first, "models": [{"model": first}, {"model": second}], "parameters": {"t": 0.4}}
    models = [{"model": name, "parameters": one} for name, one in zip((first, second), shares, strict=True)]
    return said | {"models": models} | ({} if method == "linear" else {"base_model": base})


def timed(command: list[str], directory: Path) -> tuple[dict[str, float], str]:
    """CPU and wall seconds and peak GB of one process, and what it wrote to stdout. Stops the program if it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=directory, stdout=said, stderr=complained, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        complained.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{complained.read().decode(errors='replace')[-4000:]}")
        cpu = usage.ru_utime + usage.ru_stime
        unit = 1 if sys.platform == "darwin" else 1024
        return {"cpu": cpu, "wall": wall, "peak": usage.ru_maxrss * unit / 1e9}, said.read().decode()


def with_alignkit(yaml: Path, scratch: Path) -> tuple[dict[str, float], Path]:
    """One merge by alignkit, anew; its figures and the directory of the weights."""
    words = ["train", "recipe=merge", f"merge.from_mergekit={yaml}", f"run.root={scratch / 'runs'}"]
    options = [f"merge.shard_size={SHARD_MB / 1000}", "--fresh"]
    figures, said = timed([sys.executable, "-m", "alignkit", *words, *options], scratch)
    return figures, Path(scratch / said.strip())


def with_mergekit(python: Path, yaml: Path, scratch: Path) -> tuple[dict[str, float], Path]:
    """One merge by mergekit."""
    out = scratch / "mergekit"
    flags = ["--lazy-unpickle", "--out-shard-size", f"{SHARD_MB}M", "--async-write", "--write-threads", "2"]
    figures, _ = timed([str(python.with_name("mergekit-yaml")), str(yaml), str(out), *flags], scratch)
    return figures, out


def floor(inputs: list[Path], scratch: Path) -> float:
    """Wall seconds of reading the weights of some directories and writing as much as one of them has."""
    began = time.perf_counter()
    target = scratch / "floor"
    with target.open("wb") as file:
        for at, directory in enumerate(inputs):
            for shard in sorted(directory.glob("*.safetensors")):
                with shard.open("rb") as source:
                    while block := source.read(1 << 20):
                        if at == 0:
                            file.write(block)
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def difference(ours: Path, theirs: Path) -> None:
    """Prints one JSON object: share of elements that differ, and the largest difference of all tensors.

    A difference is told in steps of bf16 at the root mean square of its tensor: near zero the steps themselves are
    smaller than any rounding of a sum.
    """
    import torch
    from safetensors import safe_open

    def tensors(place: Path) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for file in sorted(place.rglob("*.safetensors")):
            with safe_open(file, "pt") as opened:
                found |= dict.fromkeys(opened.keys(), file)
        return found

    left, right = tensors(ours), tensors(theirs)
    assert left.keys() == right.keys(), sorted(left.keys() ^ right.keys())
    differing, total, largest = 0, 0, 0.0
    for name in left:
        with safe_open(left[name], "pt") as one, safe_open(right[name], "pt") as other:
            a, b = one.get_tensor(name), other.get_tensor(name)
        assert a.dtype == b.dtype == torch.bfloat16 and a.shape == b.shape, name
        gap = (a.float() - b.float()).abs()
        step = 2.0 ** (math.floor(math.log2(float(b.float().square().mean().sqrt()))) - 7)
        differing, total = differing + int((gap > 0).sum()), total + a.numel()
        largest = max(largest, float(gap.max()) / step)
    print(json.dumps({"differing": differing / total, "steps": largest}))


def prepare(inputs: Path, options: argparse.Namespace) -> None:
    """Make the models unless they are there. A child's peak memory is never below its parent's: all torch is apart."""
    if all((inputs / name / "config.json").exists() for name in NAMES):
        return
    size = ["--small"] if options.small else ["--layers", str(options.layers)]
    subprocess.run([sys.executable, str(Path(__file__).with_name("merge_inputs.py")), str(inputs), *size], check=True)


def apart(ours: Path, theirs: Path) -> dict[str, float]:
    """What `difference` says, found in a process of its own."""
    command = [sys.executable, __file__, "--difference", str(ours), str(theirs)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def main() -> None:
    if sys.argv[1:2] == ["--difference"]:
        difference(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit", type=Path, help="Python of an environment with mergekit 0.1.5")
    parser.add_argument("--inputs", type=Path, help="directory of the models, kept")
    parser.add_argument("--methods", default=",".join(LIMITS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    methods = options.methods.split(",")
    if wrong := set(methods) - set(LIMITS):
        parser.error(f"no configuration for {', '.join(sorted(wrong))}; there are {', '.join(LIMITS)}")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        inputs = (options.inputs or place / "models").absolute()
        prepare(inputs, options)
        results = measure(methods, inputs, place, options)
        least = {str(n): floor([inputs / name for name in NAMES[-n:]], place) for n in (2, 3)}
    if options.json:
        print(json.dumps({"methods": results, "floor": least}, indent=2))
        return
    show(results)
    print(f"reading 2 models and writing one: {least['2']:.1f} s wall; reading 3: {least['3']:.1f} s")


def measure(methods: list[str], inputs: Path, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Method to side to medians; under "apart" how far the results differ."""
    results: dict[str, Any] = {}
    for number, method in enumerate(methods):
        yaml = place / f"{method}.yml"
        yaml.write_text(json.dumps(configuration(method, inputs)))  # JSON is YAML
        rounds: dict[str, list[dict[str, float]]] = {"alignkit": []}
        if options.mergekit:
            rounds["mergekit"] = []
        for _ in range(options.rounds + (number == 0)):  # the first fills the caches and does not count
            figures, ours = with_alignkit(yaml, place)
            rounds["alignkit"].append(figures)
            if options.mergekit:
                figures, theirs = with_mergekit(options.mergekit, yaml, place)
                rounds["mergekit"].append(figures)
                if options.compare:
                    results[method] = {"apart": apart(ours, theirs)}
                shutil.rmtree(theirs)
            shutil.rmtree(place / "runs")
        results.setdefault(method, {})
        for side, figures_of in rounds.items():
            counted = figures_of[number == 0 :]
            results[method][side] = {key: statistics.median(one[key] for one in counted) for key in counted[0]}
    return results


def show(results: dict[str, Any]) -> None:
    """The table."""
    print(f"{'method':<17}{'side':<10}{'CPU s':>8}{'wall s':>8}{'peak GB':>9}{'times less CPU':>16}{'goal':>6}")
    for method, sides in results.items():
        for side in ("alignkit", "mergekit"):
            if side not in sides:
                continue
            one = sides[side]
            ratio = f"{sides['mergekit']['cpu'] / one['cpu']:.1f}" if side == "alignkit" and "mergekit" in sides else ""
            goal = str(LIMITS[method]) if ratio else ""
            print(
                f"{method if side == 'alignkit' else '':<17}{side:<10}{one['cpu']:>8.1f}{one['wall']:>8.1f}"
                f"{one['peak']:>9.2f}{ratio:>16}{goal:>6}"
            )
        if "apart" in sides:
            gap = sides["apart"]
            print(f"{'':<17}{gap['differing']:.2%} of the elements differ, by {gap['steps']:.1f} bf16 steps at most")


if __name__ == "__main__":
    main()
