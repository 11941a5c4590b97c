"""Reading: what the safetensors library wrote comes back; files that do not hold together are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from alignkit.errors import RequestError, RunError
from alignkit.tensors.checkpoint import ADAPTER_WEIGHTS, Checkpoint
from tests.tensors.making import flat, made_up, save, whole, write_raw_file

MIXED = {
    "embed.weight": ("BF16", (33, 8)),
    "norm.weight": ("F32", (8,)),
    "scale": ("F16", ()),
    "empty": ("BF16", (0, 4)),
    "odd": ("BF16", (3,)),
    "double": ("F64", (2, 3)),
    "ids": ("I64", (5,)),
    "mask": ("BOOL", (2, 2)),
}


@pytest.mark.parametrize("sharded", [False, True])
def test_reads_what_the_library_wrote(tmp_path: Path, sharded: bool) -> None:
    tensors = made_up(MIXED)
    names = list(tensors)
    parts = [{n: tensors[n] for n in names[:4]}, {n: tensors[n] for n in names[4:]}] if sharded else [tensors]
    with Checkpoint.open(save(tmp_path / "model", *parts)) as found:
        assert found.config == {"model_type": "llama"}
        assert set(found.tensors) == set(tensors)
        for name, tensor in tensors.items():
            info = found.tensors[name]
            assert (info.dtype, info.shape) == MIXED[name]
            assert (found.dtype(name), found.shape(name)) == MIXED[name]
            data = found.raw(name, 0, info.count)
            assert data == tensor.view(-1).view(torch.uint8).numpy().tobytes()
            if info.dtype in ("I64", "BOOL"):
                with pytest.raises(ValueError, match="not computed with"):
                    found.read(name, 0, 1)
                continue
            np.testing.assert_array_equal(whole(found, name), flat(tensor))


def test_reads_any_stretch_and_hands_out_fresh_arrays(tmp_path: Path) -> None:
    tensors = made_up({"a": ("BF16", (1000,)), "b": ("F32", (1000,))})
    found = Checkpoint.open(save(tmp_path, tensors))
    for name in tensors:
        first = found.read(name, 17, 403)
        np.testing.assert_array_equal(first, flat(tensors[name])[17:403])
        kept = first.copy()
        found.read(name, 500, 900)[:] = 0
        np.testing.assert_array_equal(first, kept)
        with pytest.raises(IndexError):
            found.read(name, 900, 1001)


def test_an_adapter_is_a_checkpoint_too(tmp_path: Path) -> None:
    save(tmp_path, made_up({"a": ("F32", (2,))}))
    (tmp_path / "model.safetensors").rename(tmp_path / ADAPTER_WEIGHTS)
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    found = Checkpoint.open(tmp_path, weights=ADAPTER_WEIGHTS, config="adapter_config.json")
    assert found.config == {"r": 4}
    assert list(found.tensors) == ["a"]


def test_a_file_in_one_piece_comes_before_an_index(tmp_path: Path) -> None:
    save(tmp_path, made_up({"a": ("F32", (2,))}), made_up({"b": ("F32", (2,))}))
    save(tmp_path, made_up({"c": ("F32", (2,))}))
    assert list(Checkpoint.open(tmp_path).tensors) == ["c"]


def test_inputs_can_be_read_only_and_links(tmp_path: Path) -> None:
    place = save(tmp_path / "blobs", made_up({"a": ("F32", (2,))}))
    (place / "model.safetensors").chmod(0o400)
    (tmp_path / "model").mkdir()
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "model" / file).symlink_to(place / file)
    assert whole(Checkpoint.open(tmp_path / "model"), "a").shape == (2,)


def entry(begin: int, end: int, dtype: str = "F32", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def header(entries: Any, size: int) -> Callable[[Path], None]:
    return lambda place: write_raw_file(place / "model.safetensors", entries, b"\0" * size)


def cut(size: int) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        os.truncate(place / "model.safetensors", size)

    return spoil


def indexed(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    """A checkpoint in two files whose weight_map is changed."""

    def spoil(place: Path) -> None:
        (place / "model.safetensors").unlink()
        save(place, made_up({"a": ("F32", (2,))}), made_up({"b": ("F32", (2,))}))
        index = place / "model.safetensors.index.json"
        table = json.loads(index.read_text())
        table["weight_map"] = change(table["weight_map"])
        index.write_text(json.dumps(table))

    return spoil


def index_text(text: str) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        (place / "model.safetensors").unlink()
        (place / "model.safetensors.index.json").write_text(text)

    return spoil


def pickled(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")


def twice_in_two_files(place: Path) -> None:
    (place / "model.safetensors").unlink()
    save(place, made_up({"a": ("F32", (2,)), "b": ("F32", (2,))}), made_up({"b": ("F32", (2,))}))


def a_directory(place: Path) -> None:
    (place / "model.safetensors").unlink()
    (place / "model.safetensors").mkdir()


def config(text: str | None) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        (place / "config.json").unlink()
        if text is not None:
            (place / "config.json").write_text(text)

    return spoil


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty file": (cut(0), "too few for a header"),
    "seven bytes": (cut(7), "too few for a header"),
    "cut in the header": (cut(40), "is cut short: its header"),
    "cut in the data": (cut(160), "is cut short: its tensors need"),
    "header as long as the world": (
        lambda place: (place / "model.safetensors").write_bytes(b"\xff" * 64),
        "its header would have",
    ),
    "header is a list": (header([], 0), "no JSON object"),
    "header is no JSON": (header(b"{'a': 1}", 0), "not valid JSON"),
    "header is no UTF-8": (header(b'{"\xff": 1}', 0), "not valid JSON"),
    "header nested too deep": (header(b'{"a":' * 100_000, 0), "not valid JSON"),
    "a name twice": (header(b'{"a":{"dtype":"F32"},"a":{"dtype":"F32"}}', 0), "'a' twice"),
    "no offsets": (header({"a": {"dtype": "F32", "shape": [1]}}, 4), "without dtype, shape and data_offsets"),
    "entry is a number": (header({"a": 3}, 4), "without dtype, shape and data_offsets"),
    "unknown dtype": (header({"a": entry(0, 4, "F4")}, 4), "'F4'"),
    "dtype is a list": (header({"a": entry(0, 4, ["F32"])}, 4), "not known here"),  # type: ignore[arg-type]
    "negative shape": (header({"a": entry(0, 4, shape=[-1, -1])}, 4), "the shape"),
    "shape of fractions": (header({"a": entry(0, 4, shape=[1.0])}, 4), "the shape"),
    "shape is a number": (header({"a": entry(0, 4, shape=1)}, 4), "the shape"),
    "negative offset": (header({"a": entry(-4, 0)}, 4), "the offsets"),
    "offsets backwards": (header({"a": entry(4, 0, shape=[1])}, 4), "-4 bytes"),
    "three offsets": (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}}, 4), "the offsets"),
    "shape and bytes disagree": (header({"a": entry(0, 8, shape=[3])}, 8), "F32 of shape [3] has 12"),
    "offset beyond the file": (header({"a": entry(0, 4), "b": entry(4, 400)}, 8), "is cut short"),
    "overlap": (header({"a": entry(0, 8), "b": entry(4, 12)}, 12), "overlap"),
    "two at the same place": (header({"a": entry(0, 8), "b": entry(0, 8)}, 8), "overlap"),
    "a gap": (header({"a": entry(0, 4), "b": entry(8, 12)}, 12), "4 bytes before 'b'"),
    "more than the header says": (header({"a": entry(0, 4)}, 12), "8 bytes after its last tensor"),
    "metadata of numbers": (header({"__metadata__": {"a": 1}}, 0), "metadata"),
    "weights are a directory": (a_directory, "no regular file"),
    "pickles only": (pickled, "pytorch_model.bin, which can run code"),
    "no weights": (lambda place: (place / "model.safetensors").unlink(), "holds neither model.safetensors nor"),
    "shard missing": (indexed(lambda table: table | {"c": "model-00003-of-00003.safetensors"}), "is missing"),
    "index points up": (indexed(lambda table: table | {"c": "../model.safetensors"}), "outside its own directory"),
    "index points to the root": (indexed(lambda table: table | {"c": "/etc/passwd"}), "outside its own directory"),
    "index points down": (indexed(lambda table: table | {"c": "sub/x.safetensors"}), "outside its own directory"),
    "index points to Windows": (indexed(lambda table: table | {"c": "..\\x.safetensors"}), "outside its own"),
    "index points to dots": (indexed(lambda table: table | {"c": ".."}), "outside its own directory"),
    "index names what is not there": (indexed(lambda table: table | {"c": table["a"]}), "which does not hold it"),
    "index in the wrong place": (indexed(lambda table: table | {"a": table["b"]}), "which does not hold it"),
    "index of numbers": (indexed(lambda table: {"a": 1}), "no weight_map"),
    "index of nothing": (indexed(lambda table: {}), "no weight_map"),
    "index is no JSON": (index_text("{"), "cannot be read as JSON"),
    "index is a list": (index_text("[]"), "no JSON object"),
    "a name in two files": (twice_in_two_files, "is in"),
    "config missing": (config(None), "config.json is missing"),
    "config is no JSON": (config("{"), "cannot be read as JSON"),
    "config is a list": (config("[]"), "no JSON object"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_their_reason(tmp_path: Path, case: str) -> None:
    place = save(tmp_path / "model", made_up({"a": ("F32", (8,)), "b": ("F32", (8,))}))
    Checkpoint.open(place)
    spoil, reason = BAD[case]
    spoil(place)
    with pytest.raises(RequestError) as raised:
        Checkpoint.open(place, where="merge.models[1]")
    assert reason in str(raised.value)
    assert {fault.where for fault in raised.value.faults} == {"merge.models[1]"}


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    save(tmp_path, *[made_up({name: ("F32", (8,))}) for name in "abc"])
    files = sorted(tmp_path.glob("*.safetensors"))
    files[0].unlink()
    os.truncate(files[1], 20)
    (tmp_path / "config.json").unlink()
    with pytest.raises(RequestError) as raised:
        Checkpoint.open(tmp_path)
    assert len(raised.value.faults) == 3


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    found = Checkpoint.open(save(tmp_path, made_up({"a": ("F32", (100,))})))
    os.truncate(tmp_path / "model.safetensors", 120)
    with pytest.raises(RunError, match="cut short"):
        whole(found, "a")
    found.close()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RunError, match="could not be opened"):
        whole(found, "a")


def test_the_library_agrees_on_where_everything_lies(tmp_path: Path) -> None:
    tensors = made_up(MIXED)
    found = Checkpoint.open(save(tmp_path, tensors))
    with safe_open(tmp_path / "model.safetensors", "pt") as oracle:
        assert set(oracle.keys()) == set(found.tensors)
        for name in oracle.keys():  # noqa: SIM118
            part = oracle.get_slice(name)
            assert (part.get_dtype(), tuple(part.get_shape())) == (found.dtype(name), found.shape(name))
