"""Texts for a small model to learn reading from: pieces of a book, and questions about a number that a text hides.

    python scripts/retrieval_rows.py BOOK OUT --window 256 --rows 4000 [--book-share 0.5] [--shortest 0.7] [--seed 0]

Writes OUT (JSONL with a `text` column), and OUT.held-out.txt, the end of the book, which no row holds. A piece of the
book has `window` bytes and begins anywhere. Of the questions, a third are the long-context suite's passkey at any
depth, with its answer, in a text of `shortest` times the window up to the window. The others ask for the same number
again and again, at distances that are mostly short and reach half of the window: a row has many bytes that can only be
looked up, so looking up is learned soon. Where the window is too short for a passkey, all are of that kind. Every byte
is trained.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from alignkit.evaluation.long_context.tasks import FILLER, Task, fitted, passkey

HELD_OUT = 0.03
"""Share of the book that is kept out."""
SENTENCE = max(map(len, FILLER))
"""Bytes of the longest filler sentence."""
PASSKEYS = 1 / 3
"""Share of the questions that are passkeys."""
NEAR = 0.75
"""Share of the repeated questions with at most two sentences before them; the others are log-uniform."""


def passkey_row(rng: random.Random, limit: int) -> str | None:
    """A passkey with its answer, of at most `limit` bytes; None where none is so short."""
    depth, seed = rng.random(), rng.random()

    def made(filler: int) -> Task:
        return passkey(random.Random(seed), filler, depth)

    def text(filler: int) -> str:
        task = made(filler)
        return f"{task.text}{task.continuation}."

    filler = fitted(text, len, limit)
    return None if filler is None else text(filler)


def asked_again(rng: random.Random, limit: int) -> str:
    """A number, and questions for it with some or no other sentences between them, of at most `limit` bytes."""
    key = rng.randrange(10_000, 100_000)
    text = f"The secret number is {key}. Remember it: {key}.\n"
    question = f"\nWhat is the secret number? The secret number is {key}."
    while (room := limit - len(text) - len(question)) >= 0:
        most = min(room, limit // 2) // SENTENCE
        sentences = min(most, rng.randint(0, 2) if rng.random() < NEAR else int((most + 2) ** rng.random()) - 1)
        between = "".join(rng.choice(FILLER) for _ in range(sentences))
        text += between + question
    return text


def row(rng: random.Random, book: str, window: int, book_share: float, shortest: float) -> str:
    """One text of at most `window` bytes."""
    if rng.random() < book_share:
        start = rng.randrange(len(book) - window)
        return book[start : start + window]
    # As many between one and two times the shortest as between two and four.
    found = passkey_row(rng, int(window * shortest ** rng.random())) if rng.random() < PASSKEYS else None
    return found or asked_again(rng, window)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("book", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--window", type=int, required=True, help="bytes")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--book-share", type=float, default=0.5, help="share of the rows that are pieces of the book")
    parser.add_argument("--shortest", type=float, default=0.7, help="passkey, over the window")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    book = options.book.read_text(encoding="utf-8").encode("ascii", "ignore").decode()  # a byte a letter
    end = int(len(book) * (1 - HELD_OUT))
    Path(f"{options.out}.held-out.txt").write_text(book[end:], encoding="utf-8")
    rng = random.Random(options.seed)
    window = options.window - 2  # an end-of-text token follows
    with options.out.open("w", encoding="utf-8") as out:
        for _ in range(options.rows):
            out.write(json.dumps({"text": row(rng, book[:end], window, options.book_share, options.shortest)}) + "\n")


if __name__ == "__main__":
    main()
