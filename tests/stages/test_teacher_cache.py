"""teacher-cache, from rows to a cache that a student reads: what is in it, what it costs, what it refuses."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import alignkit
from alignkit.config.sections import Data, Model
from alignkit.data.batching import flatten, pad
from alignkit.data.prepare import prepare
from alignkit.errors import RequestError
from alignkit.models.loading import load_tokenizer
from alignkit.teachers.cache import writing
from alignkit.teachers.cached import CachedTeacher
from alignkit.teachers.circumstances import circumstances
from alignkit.teachers.live import LiveTeacher
from alignkit.teachers.recipe import cache_files
from alignkit.training.divergences_teacher import teacher_log_probs
from alignkit.training.targets import SampledTargets, TopKTargets
from alignkit.training.token_scores import Workspace
from tests.teachers.fake_server import FakeServer, Scorer
from tests.tiny import build_model, build_tokenizer, save_tiny, write_chats

EXACT = ("cache.entries=all", "cache.bits=32", "cache.max_bytes=null")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and 40 chats."""
    root = tmp_path_factory.mktemp("cache")
    save_tiny(root / "teacher", initializer_range=0.3)
    write_chats(root / "chats.jsonl", 40)
    return root


def words(place: Path, root: Path, *more: str) -> list[str]:
    return [
        f"teacher={place / 'teacher'}",
        f"data={place / 'chats.jsonl'}",
        f"run.root={root}",
        "teacher.dtype=fp32",
        "data.max_length=64",
        *more,
    ]


def cached(place: Path, root: Path, *more: str) -> CachedTeacher:
    result = alignkit.train("teacher-cache", words(place, root, *more))
    assert Path(result["path"]) == Path(result["run"]) / "cache"
    return CachedTeacher(Path(result["path"]))


def section(place: Path, **changes: Any) -> Data:
    return Data(name=str(place / "chats.jsonl"), **{"max_length": 64, **changes})


def training_rows(place: Path, **changes: Any) -> Any:
    return prepare(section(place, **changes), build_tokenizer()).train


def live_log_probs(place: Path, batch: dict[str, Any], temperature: float = 1.0) -> torch.Tensor:
    live = LiveTeacher.of(Model(name=str(place / "teacher"), dtype="fp32"))
    return teacher_log_probs(live.targets(batch), temperature, Workspace(), None).clone()


def dense(targets: TopKTargets, vocabulary: int) -> torch.Tensor:
    return torch.zeros(len(targets), vocabulary).scatter(-1, targets.ids, targets.log_probs)


def test_the_whole_vocabulary_in_fp32_is_the_live_teacher(place: Path, tmp_path: Path) -> None:
    cache = cached(place, tmp_path, *EXACT, "cache.temperature=2")
    rows = training_rows(place)
    some = [rows[n] for n in (7, 0, 12)]
    for collate in (flatten(), pad(0)):
        found = cache.targets(collate(some))
        assert isinstance(found, TopKTargets) and found.temperature == 2.0
        live = live_log_probs(place, collate(some), temperature=2.0)
        assert float((dense(found, 259) - live).abs().max()) <= 1e-6
        assert found.log_tail is not None and bool(torch.isneginf(found.log_tail).all())
    assert cache.vocabulary == 259 and cache.kind == "top-k"


@pytest.mark.parametrize(("bits", "worst"), [("16", 0.0005), ("8", 0.06)])
def test_top_k_in_few_bits(place: Path, tmp_path: Path, bits: str, worst: float) -> None:
    cache = cached(place, tmp_path, f"cache.bits={bits}", "cache.entries=20")
    batch = flatten()(training_rows(place)[:6])
    found = cache.targets(batch)
    assert isinstance(found, TopKTargets) and found.log_tail is not None
    live = live_log_probs(place, batch)
    likeliest = live.topk(20)
    assert float((found.log_probs - likeliest.values).abs().max()) <= worst
    assert [set(row) for row in found.ids.tolist()] == [set(row) for row in likeliest.indices.tolist()]
    rest = live.exp().sum(-1) - likeliest.values.exp().sum(-1)
    assert found.log_tail.exp().numpy() == pytest.approx(rest.numpy(), rel=0.05)


def test_draws_are_the_teachers_in_the_mean(place: Path, tmp_path: Path) -> None:
    """Over many positions, of which each has other draws: no token gets more or less than the teacher gives it."""
    cache = cached(place, tmp_path, "cache.kind=sampled", "cache.entries=48")
    batch = flatten()(list(training_rows(place)))
    found = cache.targets(batch)
    assert isinstance(found, SampledTargets) and found.log_probs is not None
    live = live_log_probs(place, batch)
    p = live.exp().double()
    given = torch.zeros_like(p).scatter_add(-1, found.ids, found.weights.double())
    deviation = (p * (1 - p) / 48).sum(0).sqrt()
    assert bool(((given.sum(0) - p.sum(0)).abs() < 5 * deviation).all())
    present = found.weights > 0
    assert found.log_probs[present].numpy() == pytest.approx(live.gather(-1, found.ids)[present].numpy(), abs=0.0003)
    other = cached(place, tmp_path, "cache.kind=sampled", "cache.entries=48", "seed=1").targets(batch)
    assert found.ids.tolist() != other.ids.tolist()


def test_what_is_reported(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = alignkit.train("teacher-cache", words(place, tmp_path))
    figures = result["metrics"]["cache"]
    told = capsys.readouterr().err
    shards = list(Path(result["path"]).glob("*.bin"))
    assert figures["bytes"] == sum(file.stat().st_size for file in shards) and figures["shards"] == len(shards)
    unique = {tuple(row.input_ids): row.trained for row in training_rows(place)}
    assert (figures["rows"], figures["positions"]) == (len(unique), sum(unique.values()))
    assert figures["bytes_per_token"] == pytest.approx(figures["bytes"] / figures["positions"])
    assert 202 < figures["bytes_per_token"] <= 300
    assert figures["faithfulness"]["kl"] > 0 and 0.5 < figures["faithfulness"]["mass"] < 1
    size, faithful, done = (told.index(text) for text in ("tokens with loss in", "faithful on", " in 1 shard, "))
    assert size < faithful < done, "how large it will be is said before the teacher reads a row"
    assert f"{figures['positions']:,} tokens with loss in {figures['rows']:,} rows" in told
    everything = alignkit.train("teacher-cache", words(place, tmp_path, *EXACT))["metrics"]["cache"]
    assert everything["faithfulness"]["kl"] == pytest.approx(0, abs=1e-6)


def test_rows_are_found_by_what_they_say(place: Path, tmp_path: Path) -> None:
    """Under another file name, in another order, with repeats, in another process."""
    cache = cached(place, tmp_path, "cache.bits=32", "cache.entries=40")
    other = tmp_path / "renamed.jsonl"
    lines = (place / "chats.jsonl").read_text().splitlines()
    other.write_text("\n".join(reversed(lines)) + "\n")
    turned = Data(name=str(other), max_length=64)
    rows = prepare(turned, build_tokenizer()).train
    cache.require(rows, circumstances(turned, build_tokenizer()))
    again = pickle.loads(pickle.dumps(cache))
    batch = pad(0)([rows[3], rows[0], rows[3]])
    found = again.targets(batch)
    live = live_log_probs(place, batch)
    assert float((live.gather(-1, found.ids) - found.log_probs).abs().max()) <= 1e-5
    assert len(cache.targets(pad(0)([{"input_ids": [1, 2], "labels": [-100, -100]}]))) == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"template": "llama3"}, "the chat template"),
        ({"system": "Be brief."}, 'data.system (null, here "Be brief.")'),
        ({"train_on": "all"}, 'data.train_on ("assistant", here "all")'),
    ],
)
def test_what_differs_is_named(place: Path, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    from alignkit.data.templates.install import install

    cache = cached(place, tmp_path)
    tokenizer = build_tokenizer()
    if "template" in changes:
        tokenizer = install(tokenizer, changes["template"]).tokenizer
    other = section(place, **changes)
    rows = prepare(other, tokenizer).train
    with pytest.raises(RequestError) as caught:
        cache.require(rows, circumstances(other, tokenizer))
    text = str(caught.value)
    assert text.startswith(f"distill.cache: {len(rows)} of {len(rows)} rows are not in") and told in text
    with pytest.raises(RequestError, match=r"holds nothing of .*chats\.jsonl line"):
        cache.targets(pad(0)([rows[0]]))


def test_other_data_is_named(place: Path, tmp_path: Path) -> None:
    cache = cached(place, tmp_path)
    write_chats(tmp_path / "chats.jsonl", 40, seed=9)
    other = Data(name=str(tmp_path / "chats.jsonl"), max_length=64)
    with pytest.raises(RequestError, match="what differs: the contents of the data"):
        cache.require(prepare(other, build_tokenizer()).train, circumstances(other, build_tokenizer()))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-64]), "is cut short"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"x"), "was altered"),
        (lambda file: file.unlink(), "is missing"),
    ],
)
def test_a_damaged_shard_is_named(place: Path, tmp_path: Path, damage: Callable[[Path], Any], told: str) -> None:
    cache = cached(place, tmp_path)
    damage(cache.directory / "shard-00000.bin")
    with pytest.raises(RequestError, match=rf"distill.cache: .*shard-00000.bin {told}.*--fresh"):
        CachedTeacher(cache.directory)


def test_no_cache_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no finished teacher cache"):
        CachedTeacher(tmp_path)
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(RequestError, match=r"cache.json cannot be read"):
        CachedTeacher(tmp_path)


def test_a_run_or_its_directory_name_a_cache(place: Path, tmp_path: Path) -> None:
    cache = cached(place, tmp_path)
    run = cache.directory.parent
    assert len(CachedTeacher(run)) == len(cache)
    assert cache_files(str(run)) == cache_files(str(cache.directory)) == [cache.directory / "cache.json"]
    assert cache.tokenizer().get_vocab() == build_tokenizer().get_vocab()


def test_cut_off_anywhere_it_goes_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after every shard, with a half-written and a damaged one lying there: the same files."""
    monkeypatch.setattr(writing, "LEAST_SHARD", 8000)
    whole = cached(place, tmp_path / "whole")
    files = {file.name: file.read_bytes() for file in whole.directory.glob("*.bin")}
    assert len(files) > 4

    class Killed(BaseException):
        pass

    written: list[Path] = []
    untouched = writing.write_shard

    def killing(file: Path, *arguments: Any) -> None:
        untouched(file, *arguments)
        written.append(file)
        raise Killed

    monkeypatch.setattr(writing, "write_shard", killing)
    for _ in files:
        with pytest.raises(Killed):
            cached(place, tmp_path / "cut")
    assert sorted(file.name for file in written) == sorted(files), "each shard was written once"
    written[1].write_bytes(written[1].read_bytes()[:-1])
    (written[0].parent / ".shard-00000.bin.tmp-1-2").write_bytes(b"half")
    monkeypatch.setattr(writing, "write_shard", untouched)
    again = cached(place, tmp_path / "cut")
    assert {file.name: file.read_bytes() for file in again.directory.glob("*.bin")} == files


def test_asking_again_gives_the_same_and_every_option_another(place: Path, tmp_path: Path) -> None:
    first = alignkit.train("teacher-cache", words(place, tmp_path))
    assert alignkit.train("teacher-cache", words(place, tmp_path))["reused"]
    seen = {first["path"]}
    for word in ("cache.entries=40", "cache.bits=8", "cache.temperature=1.5", "cache.kind=sampled", "data.system=Hi"):
        result = alignkit.train("teacher-cache", words(place, tmp_path, word))
        assert result["path"] not in seen
        seen.add(result["path"])
    other = tmp_path / "place"
    shutil.copytree(place / "teacher", other / "teacher")
    shutil.copy(place / "chats.jsonl", other / "chats.jsonl")
    assert alignkit.train("teacher-cache", words(other, tmp_path))["reused"], "where things lie plays no part"
    build_model(seed=5).save_pretrained(other / "teacher")
    assert alignkit.train("teacher-cache", words(other, tmp_path))["path"] not in seen


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["cache.entries=300", "cache.max_bytes=null"], "cache.entries.*300 is more than the 259 tokens"),
        (["cache.entries=100"], "402 bytes a token, and 300 are allowed.*cache.entries=74"),
        (["cache.entries=all", "cache.bits=32"], "1,558 bytes a token"),
        (["cache.kind=sampled", "cache.entries=all"], "all is no number of draws"),
        (["cache.weight=2"], "there is one teacher"),
        (["cache.server.model=x"], "there is no server"),
        (["cache.server.url=http://h/v1", "cache.entries=21"], "21 is more than the 20"),
        (["cache.server.url=http://h/v1", "cache.kind=sampled"], "none can be drawn"),
        (["cache.server.url=http://h/v1", "cache.entries=5", "cache.temperature=2"], "at temperature 1, not 2"),
        (["cache.server.url=h", "cache.entries=5"], "no address of a server"),
    ],
)
def test_refused_before_a_model_is_read(
    place: Path, tmp_path: Path, more: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignkit.stages.teacher_cache import run

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was read")

    monkeypatch.setattr(run, "load", never)
    with pytest.raises(RequestError, match=told):
        alignkit.train("teacher-cache", words(place, tmp_path, *more))


def test_a_cache_of_another_teacher_is_told(place: Path, tmp_path: Path) -> None:
    cache = cached(place, tmp_path / "runs")
    shutil.copytree(place / "teacher", tmp_path / "elsewhere")
    cache.require_teacher(Model(name=str(tmp_path / "elsewhere")))
    other = save_tiny(tmp_path / "other", seed=3)
    with pytest.raises(RequestError, match=rf"was written by {place / 'teacher'}, and {other} is not the same"):
        cache.require_teacher(Model(name=str(other)))


def test_several_teachers_are_averaged(place: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=3, initializer_range=0.3)
    listed = f"cache.teachers=[{{name: {other}, dtype: fp32, weight: 3}}]"
    cache = cached(place, tmp_path / "runs", listed, *EXACT)
    batch = pad(0)(training_rows(place)[:4])
    first, second = live_log_probs(place, batch), live_log_probs_of(other, batch)
    expected = (0.25 * first.exp() + 0.75 * second.exp()).log()
    assert float((dense(cache.targets(batch), 259) - expected).abs().max()) <= 1e-5  # type: ignore[arg-type]


def live_log_probs_of(model: Path, batch: dict[str, Any]) -> torch.Tensor:
    live = LiveTeacher.of(Model(name=str(model), dtype="fp32"))
    return teacher_log_probs(live.targets(batch), 1.0, Workspace(), None).clone()


def test_a_cache_from_a_server_is_that_of_its_model(place: Path, tmp_path: Path) -> None:
    local = cached(place, tmp_path, "cache.entries=10", "cache.bits=32")
    model = LiveTeacher.of(Model(name=str(place / "teacher"), dtype="fp32")).model
    with FakeServer(Scorer(model, load_tokenizer(Model(name=str(place / "teacher"))))) as server:
        asked = ("cache.entries=10", "cache.bits=32", f"cache.server.url={server.url}")
        served = cached(place, tmp_path, *asked)
        assert {body["model"] for _, body, _ in server.requests} == {str(place / "teacher")}
    batch = flatten()(training_rows(place))
    one, other = local.targets(batch), served.targets(batch)
    assert one.ids.tolist() == other.ids.tolist()
    assert isinstance(other, TopKTargets) and other.log_tail is not None
    assert isinstance(one, TopKTargets) and one.log_tail is not None
    assert one.log_probs.numpy() == pytest.approx(other.log_probs.numpy(), abs=1e-4)
    assert one.log_tail.exp().numpy() == pytest.approx(other.log_tail.exp().numpy(), abs=1e-4)
    head = json.loads((served.directory / "cache.json").read_text())
    assert head["faithfulness"]["kl"] is None and 0 < head["faithfulness"]["mass"] < 1


def test_a_server_without_log_probabilities_is_told_before_anything_is_written(place: Path, tmp_path: Path) -> None:
    with (
        FakeServer(lambda *_: (200, {"choices": [{"text": "hi", "logprobs": None}]})) as server,
        pytest.raises(RequestError, match="answers without log-probabilities"),
    ):
        cached(place, tmp_path, "cache.entries=10", f"cache.server.url={server.url}")
    assert not list(tmp_path.rglob("*.bin"))
