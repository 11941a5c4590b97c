"""Curves and heat maps show the numbers: higher is higher, found is green, in the terminal and as PNG."""

from __future__ import annotations

import builtins
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Group

from alignkit.console.log import as_text
from alignkit.evaluation.long_context.charts import charts, tokens
from alignkit.evaluation.long_context.pictures import draw
from alignkit.evaluation.long_context.scores import Cell
from alignkit.evaluation.report import comparison, comparison_markdown
from tests.evaluation.long_context.making import long_scores

BEFORE = long_scores({256: 5.0, 512: 60.0, 1024: 700.0}, window=256, share=0.2)
AFTER = long_scores(
    {256: 5.0, 512: 4.5, 1024: 4.2},
    window=1024,
    needles=[Cell(length=1024, depth=None, asked=4, found=3.0)],
    tracking=[Cell(length=1024, depth=None, asked=2, found=0.8)],
)


def places(text: str, mark: str) -> dict[int, int]:
    """Column to line of a mark in the curve."""
    lines = text.splitlines()
    plot = [line for line in lines if "┤" in line or "│" in line]
    return {at: number for number, line in enumerate(plot) for at, letter in enumerate(line) if letter == mark}


def test_the_curve() -> None:
    text = as_text(Group(*charts(BEFORE, AFTER)))
    both, before, after = (places(text, mark) for mark in "◉○●")
    assert list(both.values()) == [8 - round(8 * math.log(5 / 4.2) / math.log(700 / 4.2))]  # they begin as one
    assert len(before) == len(after) == 2
    assert [before[at] for at in sorted(before)] == sorted(before.values(), reverse=True)  # up to the first line
    assert min(before.values()) == 0 and max(after.values()) == 8
    assert sorted(before) == sorted(after)
    assert "700 ┤" in text and "4.2 ┤" in text
    assert [word for word in text.split() if word in ("256", "512", "1k")][:3] == ["256", "512", "1k"]


def test_what_hardly_differs_is_flat() -> None:
    (curve, _) = charts(None, long_scores({256: 5.0, 512: 5.02, 1024: 5.01}, window=1024))
    assert set(places(as_text(curve), "●").values()) == {4}


def test_infinite_perplexity_is_at_the_top() -> None:
    (curve, _) = charts(long_scores({256: 5.0, 512: math.inf, 1024: 6.0}, window=256), None)
    assert list(places(as_text(curve), "●").values()).count(0) == 2  # with the largest that is a number
    (curve, _) = charts(long_scores({256: math.nan, 512: math.nan}, window=256), None)
    assert set(places(as_text(curve), "●").values()) == {0}


def test_the_heat_map() -> None:
    text = as_text(Group(*charts(BEFORE, AFTER)))
    _, before, after = text.split("found ")
    assert before.startswith("before") and before.count("20%") == 6
    assert after.count("100%") == 6 + 1  # and one depth
    assert next(word for word in after.splitlines() if "key of several" in word).split()[-3:] == ["–", "–", "75%"]
    assert next(word for word in after.splitlines() if "variables" in word).split()[-1] == "40%"


def test_they_are_part_of_the_table_and_its_numbers_of_a_card() -> None:
    metrics = {"before": BEFORE.as_dict(), "after": AFTER.as_dict()}
    text = as_text(Group(*comparison(metrics)))
    assert "long context" in text and "perplexity, 512 tokens" in text and "÷ 13.33" in text
    assert "passkey at 100%" in text and "●" in text
    markdown = comparison_markdown(BEFORE, AFTER)
    assert "| perplexity, 1,024 tokens | 700.00 | 4.200 | ÷ 166.67 |" in markdown
    assert "| passkey, 256 tokens | 4 of 20 | 20 of 20 | +80 points |" in markdown


def pixels(path: Path) -> Any:
    from matplotlib.image import imread

    return imread(path)


def test_pictures(tmp_path: Path) -> None:
    paths = draw(BEFORE, AFTER, tmp_path / "run")
    assert [path.name for path in paths] == ["perplexity.png", "retrieval.png"]
    first = [path.read_bytes() for path in paths]
    assert all(data.startswith(b"\x89PNG\r\n\x1a\n") for data in first)
    assert [path.read_bytes() for path in draw(BEFORE, AFTER, tmp_path / "again")] == first  # same scores, same bytes
    image = pixels(paths[1])[..., :3]
    half = image.shape[1] // 2
    red = image[..., 0] - image[..., 1]
    assert (red[:, :half] > 0.3).sum() > 5 * (red[:, half:] > 0.3).sum()  # little was found before
    assert (red[:, half:] < -0.3).sum() > 5 * (red[:, :half] < -0.3).sum()


def test_one_model_alone_and_nothing_to_draw(tmp_path: Path) -> None:
    alone = draw(None, AFTER, tmp_path)
    assert [pixels(path).std() > 0.01 for path in alone] == [True, True]
    assert draw(None, None, tmp_path / "none") == []
    assert [path.name for path in draw(None, long_scores({}, window=256, needles=AFTER.needles), tmp_path / "x")] == [
        "retrieval.png"
    ]


def test_curves_of_broken_models_are_drawn(tmp_path: Path) -> None:
    broken = long_scores({256: math.nan, 512: math.inf}, window=256)
    whole = draw(broken, AFTER, tmp_path)
    assert np.isfinite(pixels(whole[0])).all()
    assert len(draw(None, broken, tmp_path / "alone")) == 2


def test_without_matplotlib_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert draw(BEFORE, AFTER, tmp_path) == []
    assert "matplotlib is not installed" in capfd.readouterr().err


@pytest.mark.parametrize(("length", "said"), [(256, "256"), (1024, "1k"), (1500, "1500"), (131072, "128k")])
def test_lengths_in_few_letters(length: int, said: str) -> None:
    assert tokens(length) == said
