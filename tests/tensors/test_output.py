"""Writing: the safetensors library reads what came out; digests, journal, resumption, and what goes wrong."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alignkit.errors import RunError
from alignkit.tensors.checkpoint import Checkpoint
from alignkit.tensors.digest import BACKLOG, RunningDigest
from alignkit.tensors.layout import TensorSpec
from alignkit.tensors.output import Output
from tests.tensors.making import flat, made_up, whole

MIXED = {
    "odd": ("BF16", (3,)),
    "embed": ("BF16", (33, 8)),
    "norm": ("F32", (8,)),
    "scale": ("F16", ()),
    "empty": ("BF16", (0, 4)),
    "double": ("F64", (2, 3)),
    "ids": ("I64", (5,)),
    "mask": ("BOOL", (3,)),
    "naïve.重み": ("BF16", (2, 2)),
}


def specs_of(shapes: dict[str, tuple[str, tuple[int, ...]]]) -> list[TensorSpec]:
    return [TensorSpec(name, shape, dtype) for name, (dtype, shape) in shapes.items()]


def write_all(output: Output, tensors: dict[str, torch.Tensor], names: list[str] | None = None) -> None:
    for name in names if names is not None else list(tensors):
        spec, tensor = output.specs[name], tensors[name]
        if spec.dtype in ("I64", "BOOL"):
            output.write_raw(name, 0, tensor.numpy().tobytes())
        else:
            values = flat(tensor)
            for start in range(0, max(1, len(values)), 7):
                output.write(name, start, values[start : start + 7])
        output.complete(name)


def bytes_below(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


@pytest.mark.parametrize("shard_bytes", [10**9, 200, 1])
def test_the_library_reads_what_was_written(tmp_path: Path, shard_bytes: int) -> None:
    tensors = made_up(MIXED)
    target = tmp_path / "model"
    with Output(target, specs_of(MIXED), shard_bytes=shard_bytes) as output:
        write_all(output, tensors)
        digests = output.finish()
        (output.directory / "config.json").write_text("{}")
        output.publish()
    assert list(tmp_path.iterdir()) == [target]
    files = sorted(target.glob("*.safetensors"))
    read = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
        assert torch.equal(read[name], tensor), name
    assert digests == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in target.iterdir()
        if file.name != "config.json"
    }
    if shard_bytes == 10**9:
        assert [file.name for file in files] == ["model.safetensors"]
        return
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert index["metadata"]["total_parameters"] == sum(t.numel() for t in tensors.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(target / file)
    found = Checkpoint.open(target)
    np.testing.assert_array_equal(whole(found, "embed"), flat(tensors["embed"]))


def test_a_shard_holds_what_it_may_and_no_more(tmp_path: Path) -> None:
    specs = [TensorSpec(f"t{n}", (size,), "U8") for n, size in enumerate([60, 40, 1, 300, 50, 50])]
    with Output(tmp_path / "m", specs, shard_bytes=100) as output:
        for spec in specs:
            output.write_raw(spec.name, 0, bytes(spec.count))
            output.complete(spec.name)
        output.finish()
        index = json.loads((output.directory / "model.safetensors.index.json").read_text())["weight_map"]
    assert [index[f"t{n}"][6:11] for n in range(6)] == ["00001", "00001", "00002", "00003", "00004", "00004"]


def test_an_adapter_keeps_its_file_name(tmp_path: Path) -> None:
    with Output(tmp_path / "a", [TensorSpec("x", (1,), "F32")], weights="adapter_model.safetensors") as output:
        output.write("x", 0, np.ones(1, np.float32))
        output.complete("x")
        assert set(output.finish()) == {"adapter_model.safetensors"}


def test_interrupted_work_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors, specs = made_up(MIXED), specs_of(MIXED)
    names = list(MIXED)
    with Output(tmp_path / "plain", specs, shard_bytes=200) as output:
        write_all(output, tensors)
        digests = output.finish()
        output.publish()
    for count in range(len(names) + 1):
        target = tmp_path / f"cut-{count}"
        with Output(target, specs, plan="p", shard_bytes=200) as output:
            write_all(output, tensors, names[:count])
        with Output(target, specs, plan="p", shard_bytes=200) as output:
            assert output.done == set(names[:count])
            write_all(output, tensors, names[count:])
            assert output.finish() == digests
        with Output(target, specs, plan="p", shard_bytes=200) as output:  # killed before it got its name
            assert output.done == set(names)
            assert output.finish() == digests
            output.publish()
        assert bytes_below(target) == bytes_below(tmp_path / "plain")


def test_what_is_not_finite_is_remembered(tmp_path: Path) -> None:
    specs = specs_of({"a": ("F32", (1,)), "b": ("F32", (1,))})
    for _ in range(2):
        with Output(tmp_path / "m", specs) as output:
            output.complete("a", finite=False)
            assert output.nonfinite == {"a"}
    with Output(tmp_path / "m", specs) as output:
        assert (output.nonfinite, output.done) == ({"a"}, {"a"})


@pytest.mark.parametrize("change", ["plan", "shape", "order", "shards", "header", "size", "gone", "first line"])
def test_anything_else_begins_anew(tmp_path: Path, change: str) -> None:
    shapes = {"a": ("F32", (4,)), "b": ("F32", (4,))}
    specs = specs_of(shapes)
    with Output(tmp_path / "m", specs, plan="one") as output:
        write_all(output, made_up(shapes))
        file, journal = output.directory / "model.safetensors", tmp_path / ".m.tmp-journal"
        (output.directory / "stray").write_text("x")
    plan, shard_bytes = "one", 10**9
    if change == "plan":
        plan = "two"
    elif change == "shape":
        specs = specs_of(shapes | {"b": ("F32", (2, 2))})
    elif change == "order":
        specs = specs[::-1]
    elif change == "shards":
        shard_bytes = 16
    elif change == "header":
        file.write_bytes(file.read_bytes().replace(b'"a"', b'"c"'))
    elif change == "size":
        file.write_bytes(file.read_bytes() + b"\0")
    elif change == "gone":
        shutil.rmtree(file.parent)
    else:
        journal.write_text("half a li")
    with Output(tmp_path / "m", specs, plan=plan, shard_bytes=shard_bytes) as output:
        assert output.done == set()
        assert not (output.directory / "stray").exists()


@pytest.mark.parametrize(
    "tail", ['{"done": "b", "fin', '{"done": "b", "finite": true}', "\0\0\0\n", '{"x": 1}\n', "7\n"]
)
def test_a_damaged_end_of_the_journal_counts_for_nothing(tmp_path: Path, tail: str) -> None:
    shapes = {"a": ("F32", (4,)), "b": ("F32", (4,))}
    with Output(tmp_path / "m", specs_of(shapes)) as output:
        write_all(output, made_up(shapes), ["a"])
    with (tmp_path / ".m.tmp-journal").open("a") as file:
        file.write(tail)
    with Output(tmp_path / "m", specs_of(shapes)) as output:
        assert output.done == {"a"}
        write_all(output, made_up(shapes), ["b"])
    with Output(tmp_path / "m", specs_of(shapes)) as output:
        assert output.done == {"a", "b"}


def test_nothing_is_called_finished_too_early(tmp_path: Path) -> None:
    with Output(tmp_path / "m", specs_of({"a": ("F32", (4,)), "b": ("F32", (4,))})) as output:
        output.write("a", 0, np.zeros(4, np.float32))
        output.complete("a")
        with pytest.raises(ValueError, match="b among them"):
            output.finish()


def test_wrong_use_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        Output(tmp_path / "m", [TensorSpec("a", (1,), "F32"), TensorSpec("a", (1,), "F32")])
    with pytest.raises(ValueError, match="F4"):
        Output(tmp_path / "m", [TensorSpec("a", (1,), "F4")])
    with Output(tmp_path / "m", specs_of({"a": ("F32", (4,)), "b": ("F32", (4,))})) as output:
        for start, count in ((-1, 1), (3, 2), (0, 5)):
            with pytest.raises(IndexError):
                output.write("a", start, np.zeros(count, np.float32))


def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("x")
    with Output(tmp_path / "m", specs_of({"a": ("F32", (1,))})) as output:
        output.complete("a")
        with pytest.raises(RunError, match="belong"):  # said to be complete, and never written
            output.finish()
    shutil.rmtree(output.directory)
    with Output(tmp_path / "m", specs_of({"a": ("F32", (1,))})) as output:
        write_all(output, made_up({"a": ("F32", (1,))}))
        output.finish()
        with pytest.raises(RunError, match="could not be written"):
            output.publish()
    assert (tmp_path / "m" / "mine").read_text() == "x"


def test_a_disk_that_is_full_is_a_sentence(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunError, match="could not be written: File too large"):
            Output(tmp_path / "m", specs_of({"a": ("F32", (10_000,))}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        Output(tmp_path / "file" / "m", specs_of({"a": ("F32", (1,))}))


@pytest.mark.parametrize("order", ["forward", "shuffled", "backward", "resumed"])
def test_the_digest_does_not_depend_on_the_order(tmp_path: Path, order: str) -> None:
    step = BACKLOG // 16
    data = random.Random(3).randbytes(24 * step + 5)
    file = tmp_path / "file"
    file.write_bytes(data)
    pieces = [(at, data[at : at + step]) for at in range(0, len(data), step)]
    if order == "shuffled":
        random.Random(4).shuffle(pieces)
    elif order == "backward":
        pieces.reverse()
    with file.open("rb") as reading:
        digest = RunningDigest(reading.fileno())
        if order == "resumed":
            for at, piece in pieces[1::3]:
                digest.written(at, len(piece))
            pieces = [piece for number, piece in enumerate(pieces) if number % 3 != 1]
        for at, piece in pieces[:-1]:
            digest.offer(at, piece)
        with pytest.raises(RunError, match="belong"):
            digest.finish(len(data))
        digest.offer(*pieces[-1])
        assert digest.finish(len(data)) == hashlib.sha256(data).hexdigest()


def test_a_file_that_was_cut_cannot_be_digested(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    with (tmp_path / "file").open("rb") as reading:
        digest = RunningDigest(reading.fileno())
        digest.written(0, 4)
        with pytest.raises(RunError, match="shorter"):
            digest.finish(4)
