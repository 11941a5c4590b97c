"""What the long-context suite found, in a form that goes into a manifest and comes back. No torch in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from alignkit.evaluation.scores import Figure, Graded, Scores, to_json

KIND = "long-context"


@dataclass(frozen=True, kw_only=True)
class AtLength:
    """Perplexity with so many tokens before the eye."""

    length: int
    """Tokens in the window."""
    loss: float
    """Nats a token, over the same tokens of the text at every length."""
    perplexity: float
    """Its exponential."""
    tokens: int
    """Tokens scored."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Loss of the tokens at positions low … high - 1 of the longest windows."""

    low: int
    high: int
    loss: float
    perplexity: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What was found of what was hidden at one length, and for passkeys at one depth."""

    length: int
    depth: float | None
    """0: at the beginning of the text, 1: at its end; None: all over it."""
    asked: int
    found: float
    """Of those asked for; in variable tracking, the sum of the shares of variables named."""

    @property
    def share(self) -> float:
        return self.found / self.asked


@dataclass(frozen=True, kw_only=True)
class LongScores:
    """Scores of one model, at every length."""

    headlines: ClassVar[tuple[str, ...]] = ("passkey_found", "longest_perplexity", "needles_found")

    window: int | None
    """Tokens that the model's configuration says it reads."""
    lengths: list[int]
    """Asked for, ascending. Not every part can be measured at each."""
    perplexity: list[AtLength] = field(default_factory=list)
    positions: list[Bucket] = field(default_factory=list)
    passkey: list[Cell] = field(default_factory=list)
    """By length, then depth."""
    needles: list[Cell] = field(default_factory=list)
    tracking: list[Cell] = field(default_factory=list)
    short: Scores | None = None
    """Of the rows that a short context is enough for."""
    asked: list[Graded] = field(default_factory=list)
    """Every retrieval question and its answer."""
    warnings: list[str] = field(default_factory=list)
    """What a person should know before trusting these, in words."""
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """Questions asked."""
        return len(self.asked) + (self.short.rows if self.short else 0)

    @property
    def title(self) -> str:
        """Over the column of names in a table."""
        return "long context"

    @property
    def answers(self) -> list[Graded]:
        """Answers to show beside each other: those of the short rows."""
        return self.short.answers if self.short else []

    @property
    def passkey_found(self) -> float | None:
        """Share of all passkeys within the model's window that were found."""
        return _found([cell for cell in self.passkey if self.window is None or cell.length <= self.window])

    @property
    def needles_found(self) -> float | None:
        """The same of the keys among others."""
        return _found([cell for cell in self.needles if self.window is None or cell.length <= self.window])

    @property
    def longest_perplexity(self) -> float | None:
        """At the longest length within the model's window."""
        within = [one for one in self.perplexity if self.window is None or one.length <= self.window]
        return within[-1].perplexity if within else None

    def figures(self) -> list[Figure]:
        found = []
        for one in self.perplexity:
            name = f"perplexity, {one.length:,} tokens"
            found.append(Figure(name=name, value=one.perplexity, change="ratio", better="lower"))
        for called, cells in (
            ("passkey", self.passkey),
            ("key of several", self.needles),
            ("variables", self.tracking),
        ):
            for length in sorted({cell.length for cell in cells}):
                found.append(_retrieved(f"{called}, {length:,} tokens", [c for c in cells if c.length == length]))
        if self.short is not None:
            found += [
                Figure(**{**vars(figure), "name": f"short rows: {figure.name}"}) for figure in self.short.figures()
            ]
        return found

    def as_dict(self) -> dict[str, Any]:
        """Valid JSON; ``from_dict`` gives the scores back."""
        plain: dict[str, Any] = _plain(asdict(self))
        return {
            "kind": KIND,
            **plain,
            "short": self.short.as_dict() if self.short else None,
            "seconds": round(self.seconds, 3),
            "passkey_found": self.passkey_found,
            "needles_found": self.needles_found,
            "longest_perplexity": _plain(self.longest_perplexity),
            "compare": COMPARED,
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> LongScores:
        """The inverse of `as_dict`; what is derived is derived again."""
        return cls(
            window=plain["window"],
            lengths=plain["lengths"],
            perplexity=[AtLength(**_numbers(one)) for one in plain["perplexity"]],
            positions=[Bucket(**_numbers(one)) for one in plain["positions"]],
            passkey=[Cell(**one) for one in plain["passkey"]],
            needles=[Cell(**one) for one in plain["needles"]],
            tracking=[Cell(**one) for one in plain["tracking"]],
            short=Scores.from_dict(plain["short"]) if plain["short"] else None,
            asked=[Graded(**one) for one in plain["asked"]],
            warnings=plain["warnings"],
            seconds=plain["seconds"],
        )


COMPARED = ["passkey_found", "needles_found", "longest_perplexity"]
"""What a table of several runs shows, in that order."""


def _found(cells: Sequence[Cell]) -> float | None:
    asked = sum(cell.asked for cell in cells)
    return sum(cell.found for cell in cells) / asked if asked else None


def _retrieved(name: str, cells: Sequence[Cell]) -> Figure:
    asked, found = sum(cell.asked for cell in cells), sum(cell.found for cell in cells)
    text = f"{found:g} of {asked}" if found == int(found) else ""  # a chain may be named in part
    return Figure(name=name, value=found / asked, text=text, change="points", better="higher")


def _numbers(plain: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value) if isinstance(value, str) else value for name, value in plain.items()}


def _plain(value: Any) -> Any:
    """Floats as JSON has them, all the way down."""
    if isinstance(value, float):
        return to_json(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
