"""A shard is whole, or it is said what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from alignkit.teachers.cache.layout import Layout
from alignkit.teachers.cache.record import drawn, top_k
from alignkit.teachers.cache.shard import ALIGNED, DamagedShardError, Shard, write_shard

LAYOUT = Layout(kind="top-k", entries=4, bits=32, vocabulary=20, temperature=1.0)
SAMPLED = Layout(kind="sampled", entries=9, bits=16, vocabulary=20, temperature=1.0)


def log_probs(positions: int, seed: int) -> torch.Tensor:
    return torch.randn(positions, 20, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [(bytes([n]) * 16, top_k(log_probs(n + 1, n), 4)) for n in range(5)]
    write_shard(tmp_path / "shard-00000.bin", LAYOUT, rows)
    return tmp_path / "shard-00000.bin"


def test_rows_come_back(file: Path) -> None:
    shard = Shard(file)
    shard.verify()
    assert shard.positions == 15 and shard.entries == 60
    assert shard.digests.tobytes() == b"".join(bytes([n]) * 16 for n in range(5))
    for n in (4, 0, 2):
        expected = top_k(log_probs(n + 1, n), 4)
        found = LAYOUT.decoded([shard.row(n)])
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.log_probs.tobytes() == expected.log_probs.tobytes()


def test_rows_of_draws_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = [drawn(log_probs(n + 1, n), rng.random((n + 1, 9))) for n in range(4)]
    write_shard(tmp_path / "s.bin", SAMPLED, [(bytes([n]) * 16, one) for n, one in enumerate(records)])
    shard = Shard(tmp_path / "s.bin")
    for n, record in enumerate(records):
        found = SAMPLED.decoded([shard.row(n)])
        assert found.draws is not None and record.draws is not None
        assert found.draws.sum(-1).tolist() == [9] * (n + 1)
        assert sorted(found.ids[found.draws > 0].tolist()) == sorted(record.ids[record.draws > 0].tolist())


def test_arrays_are_mapped_and_not_read(file: Path) -> None:
    row = Shard(file).row(3)
    assert not row["ids"].flags.owndata and not row["codes"].flags.writeable
    assert Shard(file)._body % ALIGNED == 0


@pytest.mark.parametrize("keep", [0, 10, 200, -1, -64])
def test_cut_short(file: Path, keep: int) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    with pytest.raises(DamagedShardError, match="is cut short"):
        Shard(file)


def test_longer_altered_missing_or_of_another_kind(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data + b"x")
    with pytest.raises(DamagedShardError, match="is longer"):
        Shard(file)
    altered = bytearray(data)
    altered[-100] ^= 1
    file.write_bytes(altered)
    with pytest.raises(DamagedShardError, match="was altered"):
        Shard(file).verify()
    file.write_bytes(b"{}\n" + data)
    with pytest.raises(DamagedShardError, match="no part of a cache"):
        Shard(file)
    file.write_bytes(data.replace(b'"format": 1', b'"format": 7', 1))
    with pytest.raises(DamagedShardError, match="format 7"):
        Shard(file)
    file.unlink()
    with pytest.raises(DamagedShardError, match="is missing"):
        Shard(file)
