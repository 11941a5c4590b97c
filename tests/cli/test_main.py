"""The command line as a whole: help, errors as sentences, exit codes, what is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
import typer

from alignkit.cli.main import COMMANDS, entry
from alignkit.errors import Fault, Interrupted, NumericsError, RequestError, RunError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    """The exit code of a command line, run in this process."""
    with pytest.raises(SystemExit) as caught:
        entry(words)
    return int(caught.value.code or 0)


def shell(words: Sequence[str], **settings: object) -> subprocess.CompletedProcess[str]:
    """A command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "alignkit", *words], capture_output=True, text=True, env=environment, **settings
    )  # type: ignore[call-overload,no-any-return]


def test_help_lists_every_command_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\S", text, re.MULTILINE) for name in COMMANDS)
    code = (
        "import sys\nfrom alignkit.cli.main import entry\n"
        "try:\n    entry(['--help'])\nexcept SystemExit:\n    pass\n"
        "loaded = set(sys.modules)\n"
        f"commands = {{*{[module for module, _, _ in COMMANDS.values()]!r}}}\n"
        "heavy = loaded & (commands | {'hydra', 'omegaconf', 'yaml', 'rich', 'torch'})\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: alignkit {name} ")
    module, attribute, _ = COMMANDS[name]
    found = getattr(import_module(module), attribute)
    assert isinstance(found, typer.Typer) or found.__doc__


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from alignkit import __version__

    assert run("--version") == 0
    assert capsys.readouterr().out == f"alignkit {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? `alignkit --help` says what there is."),
        (["frobnicate"], "No such command 'frobnicate'. `alignkit --help`"),
        (["--frobnicate"], "No such option: --frobnicate. `alignkit --help`"),
        (["train", "--forsh"], "No such option: --forsh"),
        (["recipes", "shwo"], "Did you mean 'show'?"),
        (["recipes", "show"], "Missing argument"),
    ],
)
def test_a_wrong_word_is_answered_in_a_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "Commands:" in capsys.readouterr().err


FAULTS = [Fault(where="a", what="is wrong"), Fault(where="b", what="too", instead="Write c.")]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RequestError(FAULTS[0]), 2, "a: is wrong\n"),
        (RequestError(FAULTS), 2, "2 faults:\n- a: is wrong\n- b: too. Write c.\n"),
        (RunError("held by 7"), 1, "held by 7\n"),
        (NumericsError("NaN at step 3"), 3, "NaN at step 3\n"),
        (Interrupted(15, "saved"), 143, "saved\n"),
        (Interrupted(1, "saved"), 129, "saved\n"),
        (KeyboardInterrupt(), 130, ""),
        (ValueError("odd"), 1, "did not expect. ValueError: odd\nRun it again with -v to see the traceback.\n"),
        (OSError(28, "No space left on device"), 1, "OSError: [Errno 28] No space left on device"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_errors_and_exit_codes(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("alignkit.journey.train", fail)
    monkeypatch.setattr("alignkit.cli.main._drop_stdout", lambda: None)
    assert run("train", "recipe=lora") == code
    captured = capsys.readouterr()
    assert captured.err.endswith(text) or text in captured.err
    assert bool(captured.err) == bool(text)
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("words", [["train", "-v", "recipe=lora"], ["-v", "train", "recipe=lora"]])
def test_a_traceback_comes_with_v(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr("alignkit.journey.train", fail)
    assert run(*words) == 1
    text = capsys.readouterr().err
    assert text.startswith("Traceback")
    assert "Run it again" not in text


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m alignkit recipes show quickstart | true; exit ${{PIPESTATUS[1]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert "BrokenPipe" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_module_can_be_run() -> None:
    done = shell(["--version"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("alignkit ")
