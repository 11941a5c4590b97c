"""Support messages in varied wording, each with the JSON object of its fields as the answer.

A row is a short message and ``{"product", "order", "problem", "urgency", "refund"}``: product and order number are
to be copied, problem, urgency and the wish for a refund to be understood. A person who has read a few rows gets
every one right:

- ``order``: as written, without ``#``; null when the message gives none.
- ``urgency``: high when the customer is pressed for time, low when there is no hurry; every message says which.
- ``refund``: true when the customer asks for money back, else false.

The splits share no sentence frame, no product and no number, so exact match on ``heldout`` is understanding and not
memory. See wording.py for the parts, products.py for what is copied.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from alignkit.data.tickets.draw import Deck, Split, below, number, pick
from alignkit.data.tickets.frames import capitalized, expand
from alignkit.data.tickets.products import order_number, product
from alignkit.data.tickets.wording import PROBLEMS, REMEDIES, Problem, Wording
from alignkit.data.tickets.wording_heldout import HELDOUT
from alignkit.data.tickets.wording_train import TRAIN

WORDINGS: dict[Split, Wording] = {"train": TRAIN, "heldout": HELDOUT}


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """The answer. Fields stand in the order of the JSON object: what is copied first, what is judged after."""

    product: str
    order: str | None
    problem: Problem
    urgency: str
    refund: bool

    def as_json(self) -> str:
        """Compact JSON, as the model is to write it."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))


def generate(rows: int, split: Split, seed: int = 0) -> Iterator[dict[str, Any]]:
    """``rows`` rows ``{"messages": [user, assistant], "answer"}``; fewer rows are the beginning of more rows.

    Raises ValueError when ``split`` is neither ``train`` nor ``heldout``.
    """
    if split not in WORDINGS:
        raise ValueError(f"split {split!r} is neither 'train' nor 'heldout'")
    writer = _Writer(split, seed)
    for _ in range(rows):
        message, ticket = writer.write()
        answer = ticket.as_json()
        messages = [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
        yield {"messages": messages, "answer": answer}


class _Writer:
    """Writes one message after another; its decks see to it that labels and frames are used evenly."""

    def __init__(self, split: Split, seed: int) -> None:
        self.split = split
        self.wording = WORDINGS[split]
        self.rng = random.Random(f"alignkit tickets {split} {seed}")
        self.problems = Deck(self.rng, PROBLEMS)
        self.urgencies = Deck(self.rng, ("high", "low"))
        self.refunds = Deck(self.rng, (True, False))
        self.order_places = Deck(self.rng, ("inline",) * 3 + ("sentence",) * 5 + ("unknown", "unmentioned"))
        self.decks: dict[tuple[str, ...], Deck[str]] = {}

    def write(self) -> tuple[str, Ticket]:
        """The next message and its ticket."""
        place = self.order_places.deal()
        ticket = Ticket(
            product=product(self.rng, self.split),
            order=order_number(self.rng, self.split) if place in ("inline", "sentence") else None,
            problem=self.problems.deal(),
            urgency=self.urgencies.deal(),
            refund=self.refunds.deal(),
        )
        return self.message(ticket, place), ticket

    def message(self, ticket: Ticket, place: str) -> str:
        """The sentences of one ticket in one of the orders in which people write."""
        problem = self.told(ticket, place)
        order = self.order_sentence(ticket, place)
        wish = self.wish(ticket)
        urgency = self.urgency(ticket)
        arrangement = below(self.rng, 6)
        if arrangement == 0:
            parts = [order, problem, wish, urgency]
        elif arrangement == 1:
            parts = [urgency, problem, order, wish]
        elif arrangement == 2:
            parts = [problem, urgency, wish, order]
        elif arrangement == 3:
            parts = [problem, wish, order, urgency]
        else:
            parts = [problem, order, wish, urgency]
        if below(self.rng, 10) < 3:
            parts.insert(0, self.sentence(self.wording.greetings))
        if below(self.rng, 10) < 1:
            parts.append(self.sentence(self.wording.closings))
        return " ".join(part for part in parts if part).replace("\n ", "\n")

    def told(self, ticket: Ticket, place: str) -> str:
        """What went wrong: one sentence that names the product, or an introduction and a sentence about "it"."""
        inline = self.sentence(self.wording.order_inline, order=self.shown(ticket)) if place == "inline" else ""
        name = ticket.product + inline
        low = number(self.rng, self.split, 11, 60)
        high = number(self.rng, self.split, 61, 150)
        introduction = ""
        a_product = f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
        # What never came into the house is not "my" kettle.
        it = pick(self.rng, (a_product if ticket.problem == "wrong item" else f"my {name}", f"the {name}"))
        if below(self.rng, 10) < 3:
            introduction = self.sentence(self.wording.introductions, product=name, a_product=a_product) + " "
            it = "it"
        frames = self.wording.problems[ticket.problem]
        return introduction + self.sentence(frames, it=it, It=capitalized(it), low=f"${low}", high=f"${high}")

    def order_sentence(self, ticket: Ticket, place: str) -> str:
        """The sentence that gives the order number, or says that there is none, or nothing."""
        if place == "sentence":
            return self.sentence(self.wording.order_sentences, order=self.shown(ticket))
        return self.sentence(self.wording.no_order) if place == "unknown" else ""

    def shown(self, ticket: Ticket) -> str:
        """The order number as the customer writes it: plain digits sometimes with ``#``, which is not part of it."""
        assert ticket.order is not None
        return "#" + ticket.order if ticket.order.isdigit() and below(self.rng, 2) else ticket.order

    def wish(self, ticket: Ticket) -> str:
        """What the customer asks for. Not every customer who does not want the money asks for something."""
        remedy = REMEDIES[ticket.problem]
        if ticket.refund:
            only_money = remedy != "invoice" and below(self.rng, 4) == 0
            return self.sentence(self.wording.refund_not_exchange if only_money else self.wording.refund)
        return self.sentence(self.wording.remedies[remedy]) if below(self.rng, 6) else ""

    def urgency(self, ticket: Ticket) -> str:
        """The sentence about time pressure, or the lack of it."""
        return self.sentence(self.wording.urgent if ticket.urgency == "high" else self.wording.relaxed)

    def sentence(self, frames: tuple[str, ...], **slots: str) -> str:
        """The next frame of a pool, filled in."""
        deck = self.decks.setdefault(frames, Deck(self.rng, frames))
        return expand(deck.deal(), self.rng).format(**slots)
