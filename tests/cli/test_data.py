"""`alignkit data`: the answer on stdout, remarks on stderr, colour on terminals only, exit codes with a meaning."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignkit.data.eyes.recipe import ConvertRecipe, Kind
from tests.cli.conftest import Runner


def rows(path: Path, *values: Any) -> Path:
    path.write_text("".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values))
    return path


def good(question: str = "what?", answer: str = "that") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


PAIR = {"prompt": "q: ", "chosen": "good", "rejected": "bad"}


def test_preview_with_a_model(alignkit: Runner, tiny_llama: Path, chats: Path) -> None:
    code, out, err = alignkit("data", "preview", chats, f"model={tiny_llama}", "-n", 2)
    assert (code, err) == (0, "")
    assert "chats.jsonl: chat messages (column messages)" in out
    assert out.count("· conversation ·") == 2 and out.count("⟦") == 3  # the legend's and one for each answer
    assert "<|im_end|>⟧" in out and "\x1b" not in out
    assert alignkit("data", "preview", chats, f"model={tiny_llama}", "n=2")[1] == out
    assert alignkit("data", "preview", f"data={chats}", f"model={tiny_llama}", "-n", 2)[1].count("·") == out.count("·")


def test_preview_without_a_model_says_so(alignkit: Runner, chats: Path) -> None:
    code, out, err = alignkit("data", "preview", chats)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("as text (no model=…)") and "model=…" in out.splitlines()[2]
    assert out.count("· conversation ·") == 3 and "⟦" not in out


def test_preview_row_and_seed(alignkit: Runner, chats: Path) -> None:
    code, out, _ = alignkit("data", "preview", chats, "--row", 7)
    assert code == 0 and "chats.jsonl line 7" in out and out.count("· conversation ·") == 1
    one, two, other = (alignkit("data", "preview", chats, "--seed", seed)[1] for seed in (1, 1, 2))
    assert one == two != other
    code, out, err = alignkit("data", "preview", chats, "--seed", 1, "--row", 2)
    assert (code, out) == (2, "") and "--row" in err


def test_preview_html(alignkit: Runner, tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    code, out, err = alignkit("data", "preview", chats, f"model={tiny_llama}", "--html", tmp_path / "page.html")
    assert (code, out, err) == (0, f"{tmp_path / 'page.html'}\n", "")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>") and page.count("<h2>") == 3 and 'class="trained"' in page
    code, out, err = alignkit("data", "preview", chats, "--html", tmp_path / "none" / "page.html")
    assert (code, out) == (2, "") and "cannot be written" in err


@pytest.mark.parametrize(("variables", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_preview_on_a_terminal(tiny_llama: Path, chats: Path, variables: dict[str, str], colour: bool) -> None:
    """In colour where the terminal has any; else with the marks of a pipe, so that nothing is lost."""
    reader, writer = os.openpty()
    words = [sys.executable, "-m", "alignkit", "data", "preview", chats, f"model={tiny_llama}", "-n", "1"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "60", **variables}
    if "NO_COLOR" not in variables:
        environment.pop("NO_COLOR", None)
    with subprocess.Popen(words, stdout=writer, stderr=subprocess.PIPE, env=environment) as process:
        os.close(writer)
        out = b""
        while True:
            try:
                block = os.read(reader, 4096)
            except OSError:  # the terminal's other end is closed
                break
            if not block:
                break
            out += block
        assert process.wait() == 0, process.stderr.read() if process.stderr else ""
    os.close(reader)
    assert (b"\x1b[32m" in out) is colour  # trained text is green
    assert ("⟦" in out.decode()) is not colour


def test_stats(alignkit: Runner, tiny_llama: Path, chats: Path) -> None:
    code, out, err = alignkit("data", "stats", chats, f"model={tiny_llama}")
    assert (code, err) == (0, "")
    for said in ("trained tokens", "exact duplicates", "tokens by role", "longest", "█"):
        assert said in out, said
    code, out, err = alignkit("data", "stats", chats, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "") and (found["rows"], found["documents"]) == (24, 24)


def test_stats_of_several_sources(alignkit: Runner, chats: Path, tmp_path: Path) -> None:
    pairs = rows(tmp_path / "pairs.jsonl", PAIR)
    code, out, _ = alignkit("data", "stats", f"[{chats},{pairs}]", "--json")
    assert code == 0
    assert [json.loads(line)["source"] for line in out.splitlines()] == ["chats.jsonl", "pairs.jsonl"]


def test_check_exit_codes(alignkit: Runner, tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    code, out, err = alignkit("data", "check", chats)
    assert (code, err) == (0, "") and "ok: 24 rows read" in out
    bad = rows(tmp_path / "bad.jsonl", good(), "{broken", good(answer=""))
    code, out, err = alignkit("data", "check", bad)
    assert (code, err) == (2, "") and "bad.jsonl line 2" in out and "bad.jsonl line 3" in out
    assert alignkit("data", "check", bad, "-q") == (2, "", "")
    code, out, _ = alignkit("data", "check", bad, "--json")
    assert code == 2 and json.loads(out)["rows"] == 3
    code, out, err = alignkit("data", "check", chats, f"model={tiny_llama}", "data.template=chatmll")
    assert (code, out) == (2, "") and "chatml" in err


def test_a_model_without_a_template(alignkit: Runner, chats: Path, tmp_path: Path) -> None:
    from tests.tiny import save_tiny

    base = save_tiny(tmp_path / "base", template=None)
    code, out, err = alignkit("data", "check", chats, f"model={base}")
    assert (code, out) == (2, "") and "data.template=chatml" in err
    code, out, err = alignkit("data", "preview", chats, f"model={base}", "-n", 1)
    assert code == 0 and "data.template=chatml" in out
    code, out, err = alignkit("data", "preview", chats, f"model={base}", "data.template=chatml", "-n", 1)
    assert code == 0 and "<|im_end|>⟧" in out and "chatml" in err


def test_convert_and_read_again(alignkit: Runner, tmp_path: Path) -> None:
    source = rows(tmp_path / "alpaca.jsonl", {"instruction": "add", "input": "1 2", "output": "3"})
    code, out, err = alignkit("data", "convert", source, tmp_path / "clean.jsonl.gz")
    assert (code, out) == (0, f"{tmp_path / 'clean.jsonl.gz'}\n")
    assert "Alpaca" in err and "wrote 1 rows as messages" in err
    with gzip.open(tmp_path / "clean.jsonl.gz", "rt") as file:
        assert json.loads(file.read()) == good("add\n1 2", "3")
    assert alignkit("data", "check", tmp_path / "clean.jsonl.gz")[0] == 0
    code, out, err = alignkit("data", "convert", source, tmp_path / "clean.jsonl.gz")
    assert (code, out) == (2, "") and "--force" in err
    assert alignkit("data", "convert", source, tmp_path / "clean.jsonl.gz", "format=sharegpt", "--force")[0] == 0
    code, _, err = alignkit("data", "convert", source, tmp_path / "x.jsonl", "format=sharegtp")
    assert code == 2 and "sharegpt" in err


def test_rows_from_stdin(alignkit: Runner, tmp_path: Path) -> None:
    code, out, err = alignkit("data", "convert", "-", "out.jsonl", stdin=json.dumps(good()).encode() + b"\n")
    assert (code, out) == (0, "out.jsonl\n"), err
    assert json.loads((tmp_path / "out.jsonl").read_text()) == good()
    code, out, _ = alignkit("data", "preview", "-", stdin=json.dumps(good()).encode() + b"\n")
    assert code == 0 and out.startswith("stdin, as text") and "stdin.jsonl line 1" in out


def test_formats(alignkit: Runner) -> None:
    code, out, err = alignkit("data", "formats")
    assert (code, err) == (0, "")
    names = {line.split()[0] for line in out.splitlines()[1:]}
    assert {"messages", "sharegpt", "alpaca", "preference", "feedback", "text"} <= names
    assert {row["format"] for row in json.loads(alignkit("data", "formats", "--json")[1])} == names


def test_all_faults_of_a_request_at_once(alignkit: Runner) -> None:
    wrong = ("model=./no-model", "data.on_eror=skip", "sed=3", "data.template=chatmll")
    code, out, err = alignkit("data", "stats", "./x.jsonl", *wrong)
    assert (code, out) == (2, "")
    for said in ("5 faults", "no-model", "data.on_error", "seed", "x.jsonl", "chatml"):
        assert said in err
    assert "Traceback" not in err


def test_the_recipe_says_what_the_rooms_say() -> None:
    from typing import get_args, get_type_hints

    from alignkit.data import rows as room
    from alignkit.data.writing import FORMATS

    assert get_args(get_type_hints(ConvertRecipe)["format"]) == FORMATS
    assert get_args(Kind) == get_args(room.Kind)


def test_a_request_without_a_model_needs_no_torch(tmp_path: Path) -> None:
    source = rows(tmp_path / "r.jsonl", good())
    program = (
        "import sys\n"
        "from alignkit.cli.main import entry\n"
        f"for command in ('preview', 'stats', 'check'):\n"
        f"    try: entry(['data', command, {str(source)!r}])\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
