"""Rendered text becomes tokens and labels, in batches, each text tokenised once.

Character spans are mapped to tokens by the tokenizer's offsets. Where a span begins inside a token (an answer that
starts with a line break, after a prompt that ends with one), generation could never have produced that token: such a
row is tokenised in pieces that are cut there, so that the prompt's tokens are those that generation sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignkit.data.encoding.fast_tokens import FastTokens
from alignkit.data.encoding.packed import Tokens, pack, token_code
from alignkit.data.encoding.rendered import Rendered
from alignkit.data.encoding.templating import Tools, prompt_text, special_tokens
from alignkit.data.rows import UNTRAINED, Encoded, Message
from alignkit.errors import Fault, RequestError

TAIL = 64
"""Characters before an answer that are looked at to tell whether the prompt alone would be tokenised the same way."""


class Encoder:
    """Tokenises rendered texts with one tokenizer. ``short``: words may come out of a memory (see fast_tokens.py)."""

    def __init__(self, tokenizer: Any, *, short: bool = True) -> None:
        self.tokenizer = tokenizer
        self.special = special_tokens(tokenizer)
        self.prefix = plain_prefix(tokenizer)
        self.code = token_code(tokenizer)
        self.fast = FastTokens.of(tokenizer, self.prefix, self.code) if short else None
        self._lead = _lead(tokenizer)
        self._last_tokens: dict[str, int] = {}
        self._cut_always = not tokenizer.is_fast  # no offsets: cutting is the only exact way

    def encode(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """One Encoded for each text, in order; rows that carry no loss come out too, with `trained` 0."""
        done: dict[int, Encoded] = {}
        whole = [i for i, row in enumerate(rendered) if row.spans is None or not self._cut_always]
        if whole:
            batch = self._tokenize([rendered[i].text for i in whole])
            for position, i in enumerate(whole):
                row = rendered[i]
                ids = batch["input_ids"][position]
                if row.spans is None:
                    done[i] = self._finish(row, ids, [(0, len(ids))])
                elif (spans := self._token_spans(row, ids, batch.encodings[position])) is not None:
                    done[i] = self._finish(row, ids, spans)
        rest = [i for i in range(len(rendered)) if i not in done]
        for i, encoded in zip(rest, self._encode_in_pieces([rendered[i] for i in rest]), strict=True):
            done[i] = encoded
        # A template whose every prompt ends inside a token is cut from now on without trying.
        self._cut_always = self._cut_always or (len(rest) > 8 and len(rest) > len(whole) // 2)
        return [done[i] for i in range(len(rendered))]

    def pack(self, rendered: Sequence[Rendered]) -> list[Tokens]:
        """The same rows as `encode` gives, as packed numbers: the way to the store."""
        if self.fast is not None:
            packed = self.fast.pack(rendered)
            if packed is not None:
                return packed
            self.fast = None  # all rows go the library's way from here on
        return [pack(row, self.code) for row in self.encode(rendered)]

    def _tokenize(self, texts: list[str]) -> Any:
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)

    def _token_spans(self, row: Rendered, ids: list[int], encoding: Any) -> list[tuple[int, int]] | None:
        """Token ranges of the row's spans; None when a span begins inside a token."""
        spans = []
        for start, end in row.spans or []:
            first = self._first_token(row.text, ids, encoding, start, end)
            if first is None:
                return None
            # Within a text an answer ends in a special token, which merges with nothing.
            spans.append((first, len(ids) if end == len(row.text) else encoding.char_to_token(end - 1) + 1))
        return spans

    def _first_token(self, text: str, ids: list[int], encoding: Any, start: int, end: int) -> int | None:
        """The token that begins at character `start`, if one does and the prompt before it keeps its own tokens."""
        first = next((t for at in range(start, end) if (t := encoding.char_to_token(at)) is not None), None)
        if not first:  # no token there, or the first one: the answer begins with the text, or inside its first token
            return first if start == 0 else None
        if encoding.token_to_chars(first - 1)[1] < start:  # characters of the prompt went into the answer's token
            return None
        return int(first) if ids[first - 1] == self._last_token(text, start) else None

    def _last_token(self, text: str, start: int) -> int:
        """The last token of ``text[:start]`` tokenised alone; only its tail is looked at, and tails repeat."""
        tail = text[max(0, start - TAIL) : start]
        marks = [match.start() for match in self.special.finditer(tail)]
        tail = tail[marks[-1] :] if marks else tail
        if tail not in self._last_tokens:
            if len(self._last_tokens) > 10_000:
                self._last_tokens.clear()
            ids = self._tokenize([tail])["input_ids"][0]
            self._last_tokens[tail] = ids[-1] if ids else -1
        return self._last_tokens[tail]

    def _encode_in_pieces(self, rows: Sequence[Rendered]) -> list[Encoded]:
        """Rows cut at the edges of their spans, all pieces tokenised in one batch.

        Before every piece but a row's first one a special token is put, and taken off its tokens: a tokenizer may write
        a space at the beginning of a text that does not stand there in the middle of one. After an answer it is the
        token that ends it, which may swallow the white space that follows.
        """
        pieces: list[tuple[int, str, str, bool]] = []
        for number, row in enumerate(rows):
            at = 0
            for start, end in row.spans or []:
                pieces += [
                    (number, self._ending(row.text, at), row.text[at:start], False),
                    (number, self._lead if start else "", row.text[start:end], True),
                ]
                at = end
            pieces.append((number, self._ending(row.text, at), row.text[at:], False))
        pieces = [piece for piece in pieces if piece[2]]
        batch = self._tokenize([lead + text for _, lead, text, _ in pieces])["input_ids"] if pieces else []
        ids: list[list[int]] = [[] for _ in rows]
        spans: list[list[tuple[int, int]]] = [[] for _ in rows]
        for (number, lead, _, trained), found in zip(pieces, batch, strict=True):
            tokens = found[1:] if lead else found
            if trained:
                spans[number].append((len(ids[number]), len(ids[number]) + len(tokens)))
            ids[number].extend(tokens)
        return [self._finish(row, ids[number], spans[number]) for number, row in enumerate(rows)]

    def _ending(self, text: str, end: int) -> str:
        """The special token that ends `text[:end]`, or else any; nothing at the beginning of a text."""
        found = (match[0] for match in self.special.finditer(text, max(0, end - TAIL), end) if match.end() == end)
        return next(found, self._lead) if end else ""

    def _finish(self, row: Rendered, ids: list[int], spans: list[tuple[int, int]]) -> Encoded:
        """Prefix, eos and labels around the tokens of a text."""
        prefix = self.prefix if row.plain else []
        shift = len(prefix)
        ids = [*prefix, *ids]
        if row.eos:
            ids.append(self._eos())
        labels = [UNTRAINED] * len(ids)
        for start, end in spans:
            labels[start + shift : end + shift] = ids[start + shift : end + shift]
        if row.eos:
            labels[-1] = ids[-1]
        if labels:
            labels[0] = UNTRAINED
        return Encoded(ids, labels, row.where, self._weights(row, spans, labels, shift))

    def _weights(
        self, row: Rendered, spans: list[tuple[int, int]], labels: list[int], shift: int
    ) -> list[float] | None:
        """The loss weight of each token, where the row's spans have weights of their own."""
        if row.span_weights is None:
            return None
        weights = [0.0] * len(labels)
        for (start, end), weight in zip(spans, row.span_weights, strict=True):
            weights[start + shift : end + shift] = [weight] * (end - start)
        if row.eos:
            weights[-1] = row.span_weights[-1]
        weights[0] = 0.0
        return weights

    def _eos(self) -> int:
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise RequestError(
                Fault(
                    where="model",
                    what="the tokenizer has no eos token, so a model could not learn where to stop",
                    instead="Take a model whose tokenizer has one.",
                )
            )
        return int(eos)


def prompt_ids(tokenizer: Any, prompt: Sequence[Message] | str, tools: Tools = None) -> list[int]:
    """What generation starts from, as tokens: the same as the tokens before the answer in training."""
    ids = list(tokenizer(prompt_text(tokenizer, prompt, tools), add_special_tokens=False, verbose=False)["input_ids"])
    return plain_prefix(tokenizer) + ids if isinstance(prompt, str) else ids


def _lead(tokenizer: Any) -> str:
    """A special token that leaves the text after it as it is; empty when there is none."""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and not token.rstrip and not token.single_word:
            return str(token)
    return ""


def plain_prefix(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer itself puts before a text (a BOS, or nothing)."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    for start in range(len(full)):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []
