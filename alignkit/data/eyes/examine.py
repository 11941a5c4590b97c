"""Every fault of a data section, all rows read: grouped, so that 10,000 broken lines are one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from alignkit.config.sections import Data
from alignkit.console.counting import counted
from alignkit.data.eyes.measure import Measure, Measurer
from alignkit.data.eyes.walk import Found, walks
from alignkit.data.rows import Kind
from alignkit.errors import Fault

KEPT = 20
"""Faults of a kind that are listed, unless all are asked for."""


@dataclass
class Group:
    """Faults of one kind."""

    heading: str
    instead: str
    count: int = 0
    faults: list[Fault] = field(default_factory=list)
    """The first ones."""

    def lines(self) -> list[str]:
        """The kind, its rows, and what to do about it."""
        if self.count == 1:
            return [str(self.faults[0])]
        alike = all(fault.instead == self.instead for fault in self.faults)
        said = [f"{self.count:,} × {self.heading}" + (f". {self.instead}" if alike and self.instead else "")]
        for fault in self.faults:
            said.append(f"  {fault.where}: {fault.what}" if alike else f"  {fault}")
        if self.count > len(self.faults):
            said.append(f"  … and {self.count - len(self.faults):,} more (--all lists them)")
        return said


@dataclass
class Examined:
    """What was found in one source."""

    name: str
    said: str = ""
    read: int = 0
    usable: int = 0
    groups: dict[str, Group] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)
    """The first rows over the length."""
    over_count: int = 0
    refused: Fault | None = None
    """What training would refuse the source as a whole for: too many rows over the length."""
    unread: bool = False
    """The source was not read to its end, since no row of it is in a known format."""
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.groups and self.refused is None

    @property
    def faults(self) -> int:
        """How many rows have a fault."""
        return sum(group.count for group in self.groups.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        kinds = [
            {"heading": group.heading, "count": group.count, "faults": [asdict(fault) for fault in group.faults]}
            for group in self.groups.values()
        ]
        return {
            "source": self.name,
            "format": self.said,
            "rows": self.read,
            "usable": self.usable,
            "faults": kinds,
            "refused": str(self.refused) if self.refused is not None else None,
            "over_max_length": self.over_count,
            "read_to_the_end": not self.unread,
            "notes": self.notes,
        }

    def lines(self, max_length: int, rule: str) -> list[str]:
        """What a person reads: a summary, then each kind of fault with its rows and what to do."""
        read = f"{self.read:,} row{'' if self.read == 1 else 's'} read"
        said = [f"{self.name}: {self.said or ('no row is in a known format' if self.read else 'no rows')}"]
        if not self.groups:
            said.append(f"{read}, no row has a fault" if self.refused is not None else f"ok: {read}, nothing is wrong")
        else:
            kinds = "" if len(self.groups) == 1 else f" of {len(self.groups)} kinds"
            said.append(f"{read}, {self.faults:,} with a fault{kinds}, {self.usable:,} usable")
        if self.unread:
            said.append("not read to the end: every row would say the same")
        if self.refused is not None:
            said.append(f"training would refuse this. {self.refused}")
        elif self.over_count:
            what = f"{self.over_count:,} longer than data.max_length={max_length} tokens (data.overlength={rule})"
            said.append(f"{what}: {', '.join(self.over)}" + (" …" if self.over_count > len(self.over) else ""))
        said += self.notes
        alone = [line for group in self.groups.values() if group.count == 1 for line in group.lines()]
        for group in sorted(self.groups.values(), key=lambda group: -group.count):
            said += ["", *group.lines()] if group.count > 1 else []
        said += ["", *alone] if alone else []
        return said


def examine(
    section: Data, tokenizer: Any | None, *, wants: Kind | None = None, keep: int | None = KEPT
) -> list[Examined]:
    """Read every row of every source. With a tokenizer rows are rendered and tokenised too, so that what the template
    refuses and what the mask gets wrong is found. ``keep``: how many faults of a kind to keep; None: all."""
    done = []
    for walk in walks(section, wants=wants):
        found = Examined(walk.name)
        rows: Iterable[tuple[Found, Measure]] = ((one, Measure()) for one in walk)
        measurer = Measurer(section, tokenizer) if tokenizer is not None else None
        if measurer is not None:
            rows = measurer.walk(walk)
        for row, measure in counted(rows, found.name):
            found.read += 1
            if row.fault is not None:
                _add(found, row.fault, keep)
                continue
            found.usable += 1
            if any(length > section.max_length for _, length in measure.lengths):
                found.over_count += 1
                if len(found.over) < 5:
                    found.over.append(walk.short(row.where))
        found.said, found.unread = str(walk.converter or ""), walk.gave_up
        found.notes = walk.notes() + (measurer.said() if measurer is not None else [])
        if measurer is not None and section.overlength == "truncate":
            lost = measurer.dropped().items()
            found.notes += [f"{count:,} of them would be left out all the same: {reason}" for reason, count in lost]
        if not found.read:
            _add(
                found,
                Fault(where=found.name, what="is empty: there is no row in it", instead="Give one with rows."),
                keep,
            )
        refused = walk.refusal(section) or (measurer.refusal() if measurer is not None else None)
        if refused is not None:
            found.refused = refused
        done.append(found)
    return done


def heading(fault: Fault) -> str:
    """What a fault says, without what is peculiar to its row: numbers, quoted text, what stands behind a colon."""
    text = re.sub(r"`[^`]*`|\"[^\"]*\"|'[^']*'", "…", fault.what)
    text = re.sub(r"\s*\([^()]*\)", "", text)
    text = re.sub(r"\d[\d,.]*", "…", text)
    text = re.sub(r":\s.*", "", text, flags=re.DOTALL)
    return text.strip() or fault.what


def _add(found: Examined, fault: Fault, keep: int | None) -> None:
    name = heading(fault)
    group = found.groups.setdefault(name, Group(name, fault.instead))
    group.count += 1
    if keep is None or len(group.faults) < keep:
        group.faults.append(fault)
