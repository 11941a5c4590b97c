"""`alignkit eval MODEL suite=long-context`: tables and curves on stdout, or one object; faults before any weight."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Runner
from tests.tiny import save_tiny

SHORT = ("suite=long-context", "suite.lengths=[256,400]", "suite.depths=2")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "novel.txt"
    file.write_text(" ".join(f"Sentence {number} of a story." for number in range(60)))
    return file


def test_the_table_the_curve_and_the_heat_map_are_the_answer(alignkit: Runner, tiny_llama: Path, text: Path) -> None:
    code, out, err = alignkit("eval", tiny_llama, *SHORT, f"suite.text={text}", "suite.short_rows=2", "pictures=./out")
    assert code == 0, err
    for said in ("perplexity, 256 tokens", "passkey at 100%", "perplexity by length", "short rows: exact match"):
        assert said in out
    assert "0 of 2" in out  # tickets: the suite's own short rows
    assert "reads" not in out and "1 document" in err and "perplexity.png" in err
    assert sorted(path.name for path in Path("out").iterdir()) == ["perplexity.png", "retrieval.png"]


def test_json_beside_a_reference(alignkit: Runner, tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    from alignkit.config.sections import DataSource, Model
    from alignkit.evaluation.long_context.material import read_material
    from alignkit.evaluation.long_context.measure import long_context
    from alignkit.evaluation.long_context.recipe import Suite
    from alignkit.models.loading import load

    other = save_tiny(tmp_path / "other", seed=3)
    words = ("eval", tiny_llama, *SHORT, f"suite.text={text}", "suite.short=null", "model.dtype=fp32", "--json")
    code, out, err = alignkit(*words, f"reference={other}", "reference.dtype=fp32", "suite.seed=11")
    assert code == 0, err
    found = json.loads(out)
    assert (found["model"], found["reference"]) == (str(tiny_llama), str(other))
    suite = Suite(lengths=[256, 400], depths=2, text=DataSource(name=str(text)), seed=11)
    for name, own in ((other, found["before"]), (tiny_llama, found)):
        loaded = load(Model(name=str(name), dtype="fp32"))
        material = read_material(suite, loaded.tokenizer)
        expected = long_context(loaded.model, loaded.tokenizer, suite, material, progress=False).as_dict()
        for key in ("perplexity", "passkey", "needles", "asked", "short"):
            assert own[key] == expected[key], key
    assert found["perplexity"] != found["before"]["perplexity"]
    rose = found["perplexity"][0]["loss"] > found["before"]["perplexity"][0]["loss"] + 0.0199
    assert rose == any("rose" in sentence for sentence in found["warnings"])
    assert "before" in err and "after" in err


def test_without_a_text_there_is_retrieval(alignkit: Runner, tiny_llama: Path) -> None:
    code, out, err = alignkit("eval", tiny_llama, *SHORT, "suite.short=null", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["perplexity"] == [] and len(found["passkey"]) == 4 and found["short"] is None


def test_all_faults_at_once(alignkit: Runner, tmp_path: Path) -> None:
    code, out, err = alignkit(
        "eval",
        "./no-model",
        "suite=long-context",
        "suite.length=5",
        "suite.text=./none.txt",
        "suite.windows=0",
        "data=novel.txt",
        "reference=./gone",
    )
    assert (code, out) == (2, "")
    for said in ("no-model", "suite.lengths?", "none.txt", "suite.windows", "suite.text=novel.txt", "gone"):
        assert said in err, said
    assert "Traceback" not in err


def test_another_suite(alignkit: Runner, tiny_llama: Path) -> None:
    code, out, err = alignkit("eval", tiny_llama, "suite=longcontext")
    assert (code, out) == (2, "") and "long-context" in err


def test_faults_need_no_torch() -> None:
    program = (
        "import sys\n"
        "from alignkit.cli import evaluate\n"
        "from alignkit.errors import RequestError\n"
        "try: evaluate.evaluate('./none', ['suite=long-context', 'suite.text=./none.txt'])\n"
        "except RequestError as error: assert len(error.faults) == 2, error.faults\n"
        "assert not {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules), 'something heavy'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
