"""The parts that a support message is put together from.

Slots: ``{it}`` and ``{It}`` are the product ("my Solmora kettle", or "it" once it was named), ``{product}`` its
bare name, ``{a_product}`` the name with its article, ``{order}`` the order number, ``{low}`` and ``{high}``
two prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Problem = Literal["damaged", "defective", "late", "wrong item", "missing part", "overcharged"]
PROBLEMS: tuple[Problem, ...] = ("damaged", "defective", "late", "wrong item", "missing part", "overcharged")

Remedy = Literal["exchange", "part", "delivery", "invoice"]
REMEDIES: dict[Problem, Remedy] = {
    "damaged": "exchange",
    "defective": "exchange",
    "wrong item": "exchange",
    "missing part": "part",
    "late": "delivery",
    "overcharged": "invoice",
}
"""What a customer asks for who does not want the money back."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The sentence frames of one split. See frames.py for brackets and slots."""

    greetings: tuple[str, ...]
    closings: tuple[str, ...]
    introductions: tuple[str, ...]
    """Name the product; the problem is then told of "it"."""
    problems: dict[Problem, tuple[str, ...]]
    refund: tuple[str, ...]
    """Ask for money back, whatever the problem."""
    refund_not_exchange: tuple[str, ...]
    """Ask for money back and turn another one down; for problems that an exchange would solve."""
    remedies: dict[Remedy, tuple[str, ...]]
    """Ask for something else than money."""
    order_inline: tuple[str, ...]
    """Stand right behind the product's name."""
    order_sentences: tuple[str, ...]
    no_order: tuple[str, ...]
    """Say that the order number is not known."""
    urgent: tuple[str, ...]
    relaxed: tuple[str, ...]

    def frames(self) -> tuple[str, ...]:
        """Every frame that becomes a sentence of a message."""
        return (
            *self.introductions,
            *(frame for frames in self.problems.values() for frame in frames),
            *self.refund,
            *self.refund_not_exchange,
            *(frame for frames in self.remedies.values() for frame in frames),
            *self.order_sentences,
            *self.no_order,
            *self.urgent,
            *self.relaxed,
            *self.greetings,
            *self.closings,
        )
