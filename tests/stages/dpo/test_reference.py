"""The reference: what is kept of it, for whom, and what happens when that is wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.config.sections import Adapter, Model, Quantization
from alignkit.data.branches import Branched
from alignkit.data.branching import apart, shared
from alignkit.errors import RunError
from alignkit.models.adapters import attach
from alignkit.models.loading import Loaded, load
from alignkit.stages.dpo.reference import models
from alignkit.stages.dpo.reference.check import check_start
from alignkit.stages.dpo.reference.identity import about_reference, key_of
from alignkit.stages.dpo.reference.passes import Pass, References
from alignkit.stages.dpo.reference.rows import batches, row_digest, scored_tokens
from alignkit.stages.dpo.reference.store import ABOUT, ReferenceStore, Values, prune
from alignkit.training.head import ready_to_score
from tests.branched import random_rows
from tests.stages.dpo.preferences import plain_log_probs, sums
from tests.tiny import save_tiny

ROWS = random_rows([(9, 5, 7), (4, 3, 3), (12, 6, 2), (9, 5, 5), (30, 8, 1)], vocab=200)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "alignkit" / "reference"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "llama", initializer_range=0.3)


def loaded(directory: Path, **options: Any) -> Loaded:
    return load(Model(name=str(directory), dtype="fp32"), options.pop("quantization", None), device="cpu")


class Counted:
    """A pass that tells how many rows went through, each of which says its own length over and over."""

    tokens_at_once = 64
    device = torch.device("cpu")
    autocast = None

    def __init__(self, offset: float = 0.0) -> None:
        self.offset, self.rows = offset, 0

    def values(self, model: Any, rows: Sequence[Branched]) -> list[Values]:
        self.rows += len(rows)
        return [np.full(scored_tokens(row), -len(row) - self.offset, np.float32) for row in rows]


def references(key: str = "k", passing: Any = None) -> References:
    return References(ReferenceStore(key, {"model": "tiny"}), passing or Counted())


# --- the cache -----------------------------------------------------------------------------------------------------


def test_every_row_is_computed_once_for_all_runs(cache: Path) -> None:
    first, second, third = references(), references(), references()
    digest = first.cover(ROWS[:3], lambda: None)
    assert first.computed == first.passing.rows == 3
    assert second.cover(ROWS[:3], lambda: pytest.fail("the model is asked for")) == digest
    assert second.computed == 0
    third.cover(ROWS, lambda: None)  # other rows of the same data: only what is new
    assert third.computed == 2
    assert third.of(ROWS[4]).tolist() == [-39.0] * scored_tokens(ROWS[4])
    whole = third.tensor([ROWS[1], ROWS[0]])
    assert whole.tolist() == [*third.of(ROWS[1]), *third.of(ROWS[0])] and whole.dtype == torch.float32
    assert json.loads((cache / "k" / ABOUT).read_text()) == {"model": "tiny"}
    other = references("another key")
    other.cover(ROWS[:1], lambda: None)
    assert other.computed == 1


def test_a_row_is_named_by_all_that_decides_its_values() -> None:
    row = ROWS[0]
    [one, two] = row.branches
    others = [
        replace(row, trunk=[*row.trunk, 5]),
        replace(row, branches=(two, one)),
        replace(row, branches=(one,)),
        replace(row, branches=(replace(one, scored=[not s for s in one.scored]), two)),
        replace(row, trunk=row.trunk[:-1], branches=(replace(one, ids=[row.trunk[-1], *one.ids[:-1]]), two)),
    ]
    assert len({row_digest(other) for other in [row, *others]}) == 1 + len(others)
    assert row_digest(replace(row, where="elsewhere", margin=1.0)) == row_digest(row)


def test_rows_that_repeat_go_through_once() -> None:
    found = references()
    found.cover([ROWS[0], ROWS[1], ROWS[0]], lambda: None)
    assert found.computed == 2


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "text"])
def test_a_segment_that_is_not_whole_counts_as_not_there(harm: str, cache: Path) -> None:
    references().cover(ROWS[:2], lambda: None)
    [segment] = (cache / "k").glob("*.segment")
    data = bytearray(segment.read_bytes())
    if harm == "flip":
        data[-3] ^= 4
    segment.write_bytes({"cut": bytes(data[:-2]), "flip": bytes(data), "empty": b"", "text": b"{}\nnonsense"}[harm])
    again = references()
    again.cover(ROWS[:2], lambda: None)
    assert again.computed == 2 and again.of(ROWS[0]).tolist() == [-21.0] * scored_tokens(ROWS[0])
    after = references()
    after.cover(ROWS[:2], lambda: None)
    assert after.computed == 0


def test_what_was_computed_before_a_death_is_kept(cache: Path) -> None:
    class Dying(Counted):
        tokens_at_once = 1

        def values(self, model: Any, rows: Sequence[Branched]) -> list[Values]:
            if self.rows == 3:
                raise KeyboardInterrupt
            return super().values(model, rows)

    with pytest.raises(KeyboardInterrupt):
        references(passing=Dying()).cover(ROWS, lambda: None)
    again = references()
    again.cover(ROWS, lambda: None)
    assert again.computed == 2


def test_a_second_process_waits_for_the_first(cache: Path) -> None:
    """The lock is the file's, so a thread with a descriptor of its own stands for a process."""
    began = threading.Event()

    class Slow(Counted):
        def values(self, model: Any, rows: Sequence[Branched]) -> list[Values]:
            began.set()
            time.sleep(0.2)
            return super().values(model, rows)

    slow = references(passing=Slow())
    worker = threading.Thread(target=lambda: slow.cover(ROWS, lambda: None))
    worker.start()
    assert began.wait(10)
    fast = references()
    fast.cover(ROWS, lambda: pytest.fail("computed twice"))
    worker.join()
    assert fast.computed == 0 and slow.computed == len(ROWS)


def test_a_cache_that_cannot_be_written_is_said_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    found = references()
    found.cover(ROWS, lambda: None)
    assert found.of(ROWS[0]) is not None
    assert "cannot be kept" in capsys.readouterr().err


def test_old_keys_make_room(cache: Path) -> None:
    import os

    for age, key in enumerate(("newest", "middle", "oldest")):
        references(key).cover(ROWS, lambda: None)
        stamp = time.time() - 1000 * age
        os.utime(cache / key / ABOUT, (stamp, stamp))
    size = sum(file.stat().st_size for file in (cache / "oldest").iterdir())
    assert [path.name for path in prune(keep="oldest", limit=2.5 * size)] == ["middle"]
    assert {path.name for path in cache.iterdir()} == {"newest", "oldest"}


def test_a_reference_that_gives_no_number_stops_the_run() -> None:
    class Broken(Counted):
        def values(self, model: Any, rows: Sequence[Branched]) -> list[Values]:
            return [np.full(scored_tokens(row), np.nan, np.float32) for row in rows]

    with pytest.raises(RunError, match=r"not a number for row 5"):
        references(passing=Broken()).cover(ROWS, lambda: None)


def test_batches_hold_similar_lengths_and_a_budget() -> None:
    lengths = [5, 90, 7, 30, 31, 6, 400]
    found = [chosen.tolist() for chosen in batches(lengths, 100)]
    assert found[0] == [6] and sorted(row for chosen in found for row in chosen) == list(range(7))
    for chosen in found:
        assert len(chosen) == 1 or len(chosen) * max(lengths[i] for i in chosen) <= 100
    assert [1] in found and [4, 3, 2] in found


# --- who shares it ---------------------------------------------------------------------------------------------------


def recipe_of(directory: Path, *words: str) -> Any:
    from alignkit.config.compose import compose

    composed = compose("dpo", [f"model={directory}", "data=x.jsonl", *words])
    assert not composed.faults, composed.faults
    return composed.recipe


def test_runs_share_values_only_where_they_would_be_the_same(directory: Path, tmp_path: Path) -> None:
    start = loaded(directory)

    def key(*words: str, at: Loaded = start, layout: str = "shared", autocast: str | None = None) -> str:
        recipe = recipe_of(directory, *words)
        return key_of(about_reference(recipe, at, at.source, layout=layout, autocast=autocast, named=None))

    plain = key("adapter=lora")
    for same in (
        ["adapter=lora", "dpo.beta=0.3", "dpo.loss=ipo", "seed=7", "optimizer.learning_rate=1"],
        ["adapter=lora", "adapter.rank=4", "data.rows=10"],
        ["adapter=lora", "adapter.init=gaussian"],
        [],
    ):
        assert key(*same) == plain, same
    others = [
        key("adapter=lora", "adapter.init=pissa"),
        key("adapter=lora", "adapter.init=pissa", "adapter.rank=4"),
        key("adapter=lora", "adapter.init=orthogonal"),
        key("adapter=lora", "adapter.init=orthogonal", "seed=7"),
        key("adapter=lora", "adapter.kind=dora"),
        key("adapter=lora", layout="padded"),
        key("adapter=lora", autocast="bf16"),
        key("adapter=lora", at=replace(start, dtype=torch.bfloat16)),
        key("adapter=lora", at=replace(start, attention="eager")),
        key("adapter=lora", at=replace(start, quantization=Quantization(kind="nf4"))),
        key("adapter=lora", at=loaded(save_tiny(tmp_path / "other", seed=9))),
    ]
    assert len({plain, *others}) == 1 + len(others)


# --- the reference as a model ----------------------------------------------------------------------------------------

ADAPTERS = {
    "lora": Adapter(kind="lora", rank=4),
    "dora": Adapter(kind="dora", rank=4),
    "pissa": Adapter(kind="lora", rank=4, init="pissa"),
    "olora": Adapter(kind="lora", rank=4, init="olora"),
    "whole modules": Adapter(kind="lora", rank=4, modules_to_save=["lm_head"]),
}


def disturb(model: Any) -> None:
    """As after some steps of training."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_policy_with_its_adapter_off_is_where_it_started(kind: str, directory: Path) -> None:
    start = loaded(directory)
    before = [plain_log_probs(start.model, row) for row in ROWS]
    policy = attach(loaded(directory), ADAPTERS[kind], seed=1)
    disturb(policy)
    needs = [parameter.requires_grad for parameter in policy.parameters()]
    assert plain_log_probs(policy, ROWS[0]) != pytest.approx(before[0], abs=0.01)
    with models.adapter_off(policy) as reference:
        for row, own in zip(ROWS, before, strict=True):
            assert plain_log_probs(reference, row) == pytest.approx(own, abs=1e-3)
    assert plain_log_probs(policy, ROWS[0]) != pytest.approx(before[0], abs=0.01)
    assert [parameter.requires_grad for parameter in policy.parameters()] == needs


def test_adapters_below_stay_on(directory: Path, tmp_path: Path) -> None:
    """On a quantized base a parent adapter stands beside the new one, frozen: the reference has it."""
    from alignkit.models.adapters import save_adapter

    nf4 = Quantization(kind="nf4", double=False)
    first = loaded(directory, quantization=nf4)
    first.model = attach(first, ADAPTERS["lora"], seed=1)
    disturb(first.model)
    save_adapter(first.model, tmp_path / "parent", first.source)
    start = load(Model(name=str(tmp_path / "parent"), dtype="fp32"), nf4, device="cpu")
    before = [plain_log_probs(start.model, row) for row in ROWS]
    policy = attach(start, ADAPTERS["lora"], seed=2)
    needs = [parameter.requires_grad for parameter in policy.parameters()]
    disturb(policy)
    assert plain_log_probs(policy, ROWS[0]) != pytest.approx(before[0], abs=0.01)
    with models.adapter_off(policy) as reference:
        for row, own in zip(ROWS, before, strict=True):
            assert plain_log_probs(reference, row) == pytest.approx(own, abs=1e-3)
    assert [parameter.requires_grad for parameter in policy.parameters()] == needs
    assert policy.base_model.active_adapters == ["parent", "default"]


def test_new_tokens_are_as_they_started(tmp_path: Path) -> None:
    """Rows of a template's tokens are trained beside the adapter; off, they are those of the start."""
    from alignkit.config.sections import Data
    from alignkit.evaluation.templated import templated_tokenizer, with_template
    from alignkit.models.sources import locate

    bare = save_tiny(tmp_path / "bare", template=None, initializer_range=0.3)
    section = Model(name=str(bare), dtype="fp32")
    _, installed = templated_tokenizer(section, locate(section), Data(name="x", template="llama3"))
    assert installed is not None and installed.added
    start = with_template(loaded(bare), installed)
    assert start.vocabulary is not None
    row = random_rows([(6, 4, 4)], vocab=200)[0]
    row = replace(row, trunk=[*row.trunk, *start.vocabulary.trained])
    before = plain_log_probs(start.model, row)
    policy = attach(start, ADAPTERS["lora"], seed=1)
    disturb(policy)
    assert plain_log_probs(policy, row) != pytest.approx(before, abs=0.01)
    with models.adapter_off(policy) as reference:
        assert plain_log_probs(reference, row) == pytest.approx(before, abs=1e-3)


# --- passes through a model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lay", [shared, apart])
def test_values_are_the_model_s_log_probabilities(lay: Any, directory: Path) -> None:
    start = loaded(directory)
    passing = Pass(lay(), device=start.device, autocast=None)
    start.model.train()
    values = passing.values(start.model, ROWS)
    assert start.model.training
    for row, own in zip(ROWS, values, strict=True):
        assert sums(row, own.tolist()) == pytest.approx(plain_log_probs(start.model.eval(), row), abs=1e-4)
        start.model.train()


# --- before the first step -------------------------------------------------------------------------------------------


def test_a_stale_cache_is_found_out_and_made_anew(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Values of another model under the key: the first batch tells, and all rows are computed again."""
    other, start = (ready_to_score(attach(loaded(directory), ADAPTERS["lora"], seed=seed).eval()) for seed in (1, 2))
    disturb(other)
    passing = Pass(shared(), device=torch.device("cpu"), autocast=None)
    References(ReferenceStore("k", {}), passing).cover(ROWS, lambda: other)
    found = References(ReferenceStore("k", {}), passing)

    def cover() -> object:
        return found.cover(ROWS, lambda: start)

    cover()
    assert found.computed == 0
    left = check_start(found, [ROWS[:2]], start, beta=0.1, coarse=False, cover=cover)
    assert left <= 1e-5 and found.computed == len(ROWS)
    assert "are not those of this model" in capsys.readouterr().err
    for row in ROWS:
        assert sums(row, found.of(row).tolist()) == pytest.approx(plain_log_probs(start, row), abs=1e-4)
    later = References(ReferenceStore("k", {}), passing)
    later.cover(ROWS, lambda: pytest.fail("the cache was not written anew"))
    assert check_start(later, [ROWS[:2]], start, beta=0.1, coarse=False, cover=cover) <= 1e-5


def test_rounding_is_taken_for_rounding() -> None:
    """Half a nat in 16 bits: this step's rows take the policy's own numbers, the others keep the cache's."""
    found = references(passing=Counted())
    found.cover(ROWS, lambda: None)
    found.passing = Counted(offset=0.05)  # 0.05 nats a token
    left = check_start(found, [ROWS[:2]], None, beta=0.1, coarse=True, cover=lambda: pytest.fail("all anew"))
    assert left == 0
    assert found.of(ROWS[0])[0] == pytest.approx(-21.05) and found.of(ROWS[2])[0] == -20


def test_a_model_that_says_something_else_each_time_is_refused() -> None:
    class Wandering(Counted):
        def values(self, model: Any, rows: Sequence[Branched]) -> list[Values]:
            self.offset += 1.0
            return super().values(model, rows)

    found = references(passing=Wandering())

    def cover() -> object:
        return found.cover(ROWS, lambda: None)

    cover()
    with pytest.raises(RunError, match=r"Before the first step an implicit reward of the first batch is .* must be 0"):
        check_start(found, [ROWS[:2]], None, beta=0.1, coarse=False, cover=cover)
