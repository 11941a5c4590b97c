"""What check says about data, how little it reads, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from alignkit.config.sections import Data
from alignkit.data import check as checking
from alignkit.data.check import check

CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def write(path, rows) -> str:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def said(name: str, **section) -> list[str]:
    return [str(fault) for fault in check(Data(name=name, **section))]


def test_good_data_has_no_faults(tmp_path):
    assert said(write(tmp_path / "a.jsonl", [CHAT] * 20)) == []
    assert said("generated:tickets", rows=10) == []
    assert said("owner/name") == []


def test_broken_line_17(tmp_path):
    name = write(tmp_path / "a.jsonl", [CHAT] * 16 + ['{"messages": [\n'] + [CHAT] * 3)
    [fault] = said(name)
    assert fault.startswith(f"{name} line 17: is not valid JSON")


def test_all_faults_of_a_file_but_not_a_thousand(tmp_path):
    name = write(tmp_path / "a.jsonl", [CHAT, *["oops\n"] * 1000])
    assert len(said(name)) == checking.FAULTS_PER_FILE


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_empty_data_set(tmp_path, content):
    name = write(tmp_path / "a.json", [content])
    [fault] = said(name)
    assert fault.startswith("data.name: ")
    assert "is empty" in fault


def test_missing_file_is_said_under_the_section_it_stands_in(tmp_path):
    write(tmp_path / "pairs.jsonl", [CHAT])
    [fault] = check(Data(name=str(tmp_path / "pair.jsonl")), where="teacher_data")
    assert fault.where == "teacher_data.name"
    assert "pairs.jsonl" in fault.instead


def test_held_out_data_is_checked_too(tmp_path):
    name = write(tmp_path / "a.jsonl", [CHAT] * 20)
    [fault] = said(name, holdout_name="nothing.jsonl")
    assert fault.startswith("data.holdout_name: ")


def test_file_of_another_format_is_said_once(tmp_path):
    write(tmp_path / "a.jsonl", [CHAT] * 5)
    write(tmp_path / "b.jsonl", [{"text": "t"}] * 5)
    [fault] = said(str(tmp_path) + "/")
    assert "b.jsonl line 1: has no column `messages`" in fault


def test_combinations_that_cannot_work(tmp_path):
    name = write(tmp_path / "a.jsonl", [CHAT] * 5)
    text = write(tmp_path / "a.txt", ["words\n"])
    assert "split cuts raw text" in said(name, overlength="split")[0]
    assert "there are only 5" in said(name, holdout=5)[0]
    assert said(name, holdout=4) == []
    assert "overlength=split" in said(text)[0]
    assert said(text, overlength="split") == []
    assert said(text, holdout=0) == []
    assert "nothing says how many" in said("generated:tickets")[0]


def test_at_most_a_megabyte_of_a_file_is_read(tmp_path, monkeypatch):
    name = write(tmp_path / "a.jsonl", [CHAT] * 30_000 + ["broken\n"])
    assert (tmp_path / "a.jsonl").stat().st_size > 2 * checking.LIMIT
    assert said(name) == []  # the broken line stands beyond
    assert said(name, holdout=29_999) == []  # how many rows there are is not known


def test_nothing_heavy_is_imported(tmp_path):
    name = write(tmp_path / "a.jsonl", [CHAT] * 20)
    code = (
        "import sys\n"
        "from alignkit.config.sections import Data\n"
        "from alignkit.data.check import check\n"
        f"assert check(Data(name={name!r})) == []\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pyarrow', 'pandas', 'tokenizers', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_options_of_hub_data_sets_on_a_file(tmp_path):
    name = write(tmp_path / "a.jsonl", [CHAT] * 20)
    for option in ("config", "revision", "split"):
        [fault] = said(name, **{option: "test"})
        assert fault.startswith(f"data.{option}: it is test, and {name} has no {option}")
    assert said("owner/name", config="a", revision="b", split="c") == []
