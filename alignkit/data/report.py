"""What became of the rows, in numbers: nothing is dropped or cut without standing here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """Counts of one preparation. Tokens are those of the training rows."""

    sources: list[tuple[str, str, int]] = field(default_factory=list)
    """Of each source its name, the format with its columns as it is said to people, and the rows read."""
    read: int = 0
    """Rows read from all sources."""
    skipped: int = 0
    """Rows that could not be used and were left out (data.on_error=skip)."""
    kept: int = 0
    """Training rows, after dropping, splitting and cutting."""
    held_out: int = 0
    """Rows kept out of training."""
    ready: int = 0
    """Those of them that were made ready to be scored."""
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    """Tokens of the longest training row."""
    noun: str = "row"
    """What a training row is: a row, a pair of answers, or an answer."""
    wanted: int | None = None
    """Of feedback: the training rows whose answer was wanted."""
    answers: int = 0
    """Answers of comparisons that were read."""
    answers_cut: int = 0
    """Those of them that lost their end to data.max_length."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Training rows that are not trained on, by reason."""
    held_out_dropped: Counter[str] = field(default_factory=Counter)
    """Held-out rows that are not scored, by reason."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what a person might not expect."""

    def lines(self) -> list[str]:
        """The report for a person, a few lines."""
        lines = [f"read {_rows(read)} of {source} as {form}" for source, form, read in self.sources]
        if self.skipped:
            lines.append(f"skipped {_rows(self.skipped)} that cannot be used (data.on_error=skip)")
        if self.kept and self.noun == "prompt":
            lines.append(f"training on {_rows(self.kept, 'prompt')}; the longest has {self.longest:,} tokens")
        elif self.kept:
            share = self.trained_tokens / max(1, self.tokens)
            of_them = "trained" if self.noun == "row" else "in answers"
            longest = {"row": "longest row has", "pair": "longest pair, its prompt and both answers, has"}.get(
                self.noun, "longest has, with its prompt,"
            )
            lines.append(
                f"training on {_rows(self.kept, self.noun)}: {self.tokens:,} tokens, {self.trained_tokens:,} of them "
                f"{of_them} ({share:.0%}); the {longest} {self.longest:,}"
            )
        if self.wanted is not None:
            lines.append(f"answers wanted: {self.wanted:,} of {self.kept:,} ({self.wanted / max(1, self.kept):.0%})")
        if self.answers:
            share = self.answers_cut / self.answers
            lines.append(f"answers cut by data.max_length: {self.answers_cut:,} of {self.answers:,} ({share:.1%})")
        if self.held_out and not self.kept:
            lines.append(f"to be scored: {self.ready:,} of {_rows(self.held_out)}")
        elif self.held_out:
            some = f", {self.ready:,} of them made ready to be scored" if self.ready < self.held_out else ""
            lines.append(f"held out of training: {_rows(self.held_out)}{some}")
        lines += [f"dropped {_rows(count)}: {reason}" for reason, count in self.dropped.most_common()]
        lines += [f"dropped {count:,} held-out: {reason}" for reason, count in self.held_out_dropped.most_common()]
        return lines + self.notes

    def as_dict(self) -> dict[str, Any]:
        """The same for a manifest: plain JSON values."""
        compared = {"answers": self.answers, "answers_cut": self.answers_cut, "wanted": self.wanted}
        return {
            "sources": [{"source": source, "format": form, "read": read} for source, form, read in self.sources],
            "read": self.read,
            "skipped": self.skipped,
            "rows": self.kept,
            "held_out": self.held_out,
            "ready": self.ready,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "longest": self.longest,
            "dropped": dict(self.dropped),
            "held_out_dropped": dict(self.held_out_dropped),
            **(compared if self.answers else {}),
            "notes": list(self.notes),
        }


def _rows(count: int, noun: str = "row") -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
