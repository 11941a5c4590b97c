"""The suite as a whole: models whose scores are known beforehand, what is left out, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.config.sections import DataSource
from alignkit.errors import RequestError
from alignkit.evaluation.long_context.material import Material, of_documents, read_material
from alignkit.evaluation.long_context.measure import long_context
from alignkit.evaluation.long_context.recipe import Suite
from alignkit.evaluation.long_context.retrieval import Questions
from alignkit.evaluation.scores import headline
from alignkit.evaluation.stored import stored
from tests.evaluation.long_context.copying import Copying
from tests.evaluation.long_context.test_reading import texts
from tests.tiny import build_model, build_tokenizer

TOKENIZER = build_tokenizer()


def suite(**changes: Any) -> Suite:
    return Suite(**{"lengths": [256, 400, 900], "depths": 3, **changes})


def shares(cells: Any) -> dict[tuple[int, float | None], float]:
    return {(cell.length, cell.depth): cell.share for cell in cells}


def test_a_model_that_copies_finds_everything() -> None:
    found = long_context(Copying(TOKENIZER), TOKENIZER, suite(passkeys=2, lengths=[256, 400, 700]), progress=False)
    assert shares(found.passkey) == {(length, d): 1.0 for length in (256, 400, 700) for d in (0.0, 0.5, 1.0)}
    assert all(cell.asked == 2 for cell in found.passkey)
    assert shares(found.needles) == {(400, None): 1.0, (700, None): 1.0}  # 256 bytes do not hold four keys
    assert all(cell.asked == 4 for cell in found.needles)
    assert found.passkey_found == found.needles_found == 1.0
    assert set(shares(found.tracking).values()) == {0.0}
    assert {one.correct for one in found.asked if "secret" in one.prompt} == {True}


def test_a_short_sighted_model_finds_what_is_near() -> None:
    found = long_context(Copying(TOKENIZER, sight=220), TOKENIZER, suite(needles=0, chains=0), progress=False)
    near = {(256, 0.0), (256, 0.5), (256, 1.0), (400, 0.5), (400, 1.0), (900, 1.0)}
    assert shares(found.passkey) == {
        (length, depth): float((length, depth) in near) for length in (256, 400, 900) for depth in (0.0, 0.5, 1.0)
    }
    within = [cell for cell in found.passkey if cell.length <= 600]  # what the model says that it reads
    assert found.passkey_found == sum(cell.found for cell in within) / len(within)


def test_questions_fill_their_lengths_and_are_the_same_each_time() -> None:
    lengths = [300, 700, 1500]
    asked = Questions(suite(), TOKENIZER, lengths)
    assert {question.length for question in asked.all} == set(lengths)
    for question in asked.all:
        longest = 45  # a sentence of filler
        assert question.length - longest <= len(question.ids) + question.new <= question.length
        written = len(TOKENIZER(question.task.continuation)["input_ids"])
        assert question.new >= written
    again = Questions(suite(), TOKENIZER, lengths)
    assert [question.ids for question in again.all] == [question.ids for question in asked.all]
    other = Questions(suite(seed=8), TOKENIZER, lengths)
    assert [question.task.answers for question in other.all] != [question.task.answers for question in asked.all]


def test_each_count_is_looked_at() -> None:
    def kinds(**changes: Any) -> list[str]:
        base = {"passkeys": 0, "needles": 0, "chains": 0}
        return [question.task.kind for question in Questions(suite(**{**base, **changes}), TOKENIZER, [1500]).all]

    assert kinds(passkeys=2, depths=4) == ["passkey"] * 8
    assert kinds(needles=2, keys=3) == ["needle"] * 6
    assert kinds(chains=3) == ["chain"] * 3
    assert kinds(chains=1, hops=6) == ["chain"]
    depths = {question.depth for question in Questions(suite(depths=1), TOKENIZER, [1500]).all}
    assert depths == {0.5, None}


def test_scores_come_back_from_json_and_the_model_is_left_as_it_was() -> None:
    model = build_model().train()
    model.base_model.layers[0].eval()
    material = Material(documents=[texts(1, 700)[0].tolist()])
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    found = long_context(model, TOKENIZER, suite(), material, progress=False)
    assert torch.rand(1) == expected
    assert model.training and not model.base_model.layers[0].training
    assert [one.length for one in found.perplexity] == [256, 400]
    assert found.warnings == ["no document fills 900 tokens (the longest has 700): perplexity is not measured there"]
    plain = json.loads(json.dumps(found.as_dict()))
    back = stored(plain)
    assert back is not None and back.as_dict() == found.as_dict()
    assert (plain["window"], plain["lengths"]) == (512, [256, 400, 900])
    assert headline(found, found) == {"name": "passkey_found", "before": 0.0, "after": 0.0}
    assert plain["longest_perplexity"] == pytest.approx(found.perplexity[1].perplexity)


def test_figures_of_a_broken_model_are_json() -> None:
    model = build_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    material = Material(documents=[texts(1, 700)[0].tolist()])
    found = long_context(model, TOKENIZER, suite(lengths=[256], passkeys=0, needles=0, chains=0), material)
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["perplexity"][0]["loss"] == "nan"
    back = stored(plain)
    assert back is not None and str(back.figures()[0].value) == "nan"


def test_lengths_by_the_window() -> None:
    assert Suite().chosen_lengths(8192) == [2048, 4096, 8192, 16384]
    assert Suite().chosen_lengths(1024, further=False) == [256, 512, 1024]
    assert Suite(lengths=[300, 100, 300]).chosen_lengths(1024) == [100, 300]
    found = long_context(build_model("gpt2"), TOKENIZER, Suite(depths=1), progress=False)
    assert found.lengths == [128, 256, 512] and {cell.length for cell in found.passkey} == {256, 512}


def test_no_positions_for_a_length() -> None:
    with pytest.raises(RequestError, match="learned positions for 512"):
        long_context(build_model("gpt2"), TOKENIZER, suite(), progress=False)


def test_nothing_fits() -> None:
    with pytest.raises(RequestError, match="no question fits into 64 tokens"):
        long_context(build_model(), TOKENIZER, suite(lengths=[64]), progress=False)


def test_documents_as_tokens_the_longest_first(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": letter * size}) + "\n" for letter, size in [("a", 9), ("b", 5000)]))
    found = read_material(Suite(text=DataSource(name=str(file))), TOKENIZER)
    assert [len(document) for document in found.documents] == [5001, 10]  # an eos ends each
    assert TOKENIZER.decode(found.documents[1][:-1]) == "a" * 9 and found.longest == 5001
    limited = read_material(Suite(text=DataSource(name=str(file), limit=1)), TOKENIZER)
    assert len(limited.documents) == 1


def test_what_a_tokenizer_puts_before_a_text_is_put_before_each_window(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer()
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )
    file = tmp_path / "text.txt"
    file.write_text("abc" * 300)
    found = read_material(Suite(text=DataSource(name=str(file))), tokenizer)
    assert found.prefix == [bos] and found.documents[0][0] != bos and found.longest == 902
    assert of_documents([[bos, 7, 8], [7, 8, 9]], tokenizer).documents == [[7, 8, 9], [7, 8]]
    assert all(question.ids[0] == bos for question in Questions(suite(), tokenizer, [400]).all)


def test_short_rows_are_scored_as_a_probe_scores_them() -> None:
    from alignkit.config.sections import Evaluation
    from alignkit.evaluation.probe import probe

    wanted = suite(short=DataSource(name="generated:tickets"), short_rows=3, lengths=[256])
    material = read_material(wanted, TOKENIZER)
    assert len(material.short) == 3
    model = build_model()
    found = long_context(model, TOKENIZER, wanted, material, progress=False).short
    expected = probe(model, TOKENIZER, material.short, Evaluation(rows=3))
    assert found is not None and found.graded == 3
    assert (found.loss, found.answers) == (expected.loss, expected.answers)


def test_a_model_without_a_template_is_asked_no_conversations() -> None:
    found = read_material(suite(short=DataSource(name="generated:tickets")), build_tokenizer(template=None))
    assert found.short == []
    assert found.left_out == ["the rows of generated:tickets: the model has no chat template"]
    scores = long_context(build_model(), TOKENIZER, suite(lengths=[256]), found, progress=False)
    assert scores.short is None and scores.warnings == [f"left out: {found.left_out[0]}"]


def test_what_is_wrong_with_the_text_is_said_of_the_suite(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("  \n")
    with pytest.raises(RequestError) as error:
        read_material(Suite(text=DataSource(name=str(empty))), TOKENIZER)
    assert error.value.faults[0].where.startswith("suite.text")


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"lengths": []}, "suite.lengths", "empty"),
        ({"lengths": [8]}, "suite.lengths", "too short"),
        ({"passkeys": 0, "needles": 0, "chains": 0}, "suite.text", "nothing is measured"),
        ({"text": DataSource(name="a", weight=2.0)}, "suite.text.weight", "no mixture"),
        ({"text": DataSource(name="a", repeat=2.0)}, "suite.text.repeat", "no mixture"),
        ({"short": DataSource(name="a", limit=3)}, "suite.short.limit", "short_rows"),
    ],
)
def test_suites_that_cannot_be_measured(changes: dict[str, Any], where: str, said: str) -> None:
    (fault,) = suite(**changes).faults()
    assert fault.where == where and said in fault.what and fault.instead
    assert list(suite().faults()) == []
