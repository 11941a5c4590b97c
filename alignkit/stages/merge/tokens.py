"""What tokens a tokenizer has, by content, read from its files without loading it; and two tokenizers made one.

Tokens are matched by what they stand for: the bytes of a piece (`Ġthe` of a byte-level tokenizer and `▁the` of a
SentencePiece one are both " the"), the text of an added token (`<|im_end|>`). Ids and ways of writing do not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit.errors import Fault, RequestError
from alignkit.models.jsonfile import read_object

FILE = "tokenizer.json"
Content = tuple[bool, bytes]
"""Whether it is an added token, and the bytes that it stands for."""


_TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "unk_token_id", "sep_token_id")


@dataclass
class Tokens:
    """The vocabulary of one tokenizer."""

    path: Path
    """Its directory."""
    ids: dict[Content, int]
    tree: dict[str, Any] = field(repr=False)
    """tokenizer.json; empty for a tokenizer of the old files vocab.json and merges.txt."""

    @classmethod
    def read(cls, directory: Path, *, where: str = "merge.tokenizer") -> Tokens:
        """Raises RequestError where there is no tokenizer, or one that only its own library can read."""
        file = directory / FILE
        if file.exists():
            tree = read_object(file, where)
            try:
                return cls(directory, _contents(tree), tree)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RequestError(
                    Fault(where=where, what=f"{file} is no tokenizer ({error!r})", instead="Download it again.")
                ) from error
        if (directory / "vocab.json").exists():
            vocab = read_object(directory / "vocab.json", where)
            added = directory / "added_tokens.json"
            more = read_object(added, where) if added.exists() else {}
            found = {(False, _byte_level(piece)): int(number) for piece, number in vocab.items()}
            return cls(directory, found | {(True, text.encode()): int(number) for text, number in more.items()}, {})
        if (directory / "tokenizer.model").exists():
            what = f"{directory} has its vocabulary as tokenizer.model only, which is not read here"
        else:
            what = f"{directory} has no tokenizer"
        save = "AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        raise RequestError(Fault(where=where, what=what, instead=f"Save it as {FILE}: {save}."))

    @property
    def count(self) -> int:
        """Rows that it needs: the highest id and one."""
        return max(self.ids.values(), default=-1) + 1

    def find(self, content: Content) -> int | None:
        """The id of a token; an added one is also found among the pieces, and a piece among the added ones."""
        found = self.ids.get(content)
        return self.ids.get((not content[0], content[1])) if found is None else found

    def by_id(self) -> dict[int, Content]:
        """Id to content; where two contents share an id, the added token (it is what is matched in a text)."""
        return {number: content for content, number in sorted(self.ids.items(), key=lambda item: item[0][0])}


def has_tokenizer(directory: Path) -> bool:
    """Whether there are files of a tokenizer."""
    return any((directory / name).exists() for name in (FILE, "vocab.json", "tokenizer.model"))


def agree(one: Path, other: Path) -> bool:
    """Whether two directories have the same tokens under the same ids. Equal files are not parsed."""
    files = [one / FILE, other / FILE]
    if all(file.exists() for file in files) and files[0].read_bytes() == files[1].read_bytes():
        return True
    if not any(file.exists() for file in files) and (one / "tokenizer.model").exists():
        other_model = other / "tokenizer.model"
        return other_model.exists() and (one / "tokenizer.model").read_bytes() == other_model.read_bytes()
    return Tokens.read(one).ids == Tokens.read(other).ids


def union(first: Tokens, others: Iterable[Tokens], where: str = "merge.tokenizer") -> Tokens:
    """The first tokenizer with the tokens of the others that it lacks, its own ids unchanged, theirs behind.

    Pieces of another BPE come with its merges, which count after all merges of the first: a text is cut as the first
    cuts it, and then joined further where the others know a longer piece. Between tokenizers of other kinds (Unigram,
    WordPiece), or of BPE that write bytes in other ways, only added tokens can be joined.

    Raises RequestError, naming tokens, where pieces would have to be joined and cannot be.
    """
    if not first.tree:
        raise RequestError(
            Fault(
                where=where, what=f"{first.path} has no {FILE} to add tokens to", instead="Write merge.tokenizer=base."
            )
        )
    tree = json.loads(json.dumps(first.tree))
    result = Tokens(first.path, dict(first.ids), tree)
    model = tree["model"]
    new: list[dict[str, Any]] = []
    for other in others:
        pieces, merges = [], []
        their_added = {added["content"]: added for added in other.tree.get("added_tokens", [])}
        their_vocab = other.tree.get("model", {}).get("vocab")
        written = {number: piece for piece, number in their_vocab.items()} if isinstance(their_vocab, dict) else {}
        for number, content in sorted(other.by_id().items()):
            if result.find(content) is not None:
                continue
            at = result.count
            result.ids[content] = at
            if content[0]:
                flags = their_added.get(content[1].decode(), {"special": False})
                new.append(_ADDED | flags | {"id": at, "content": content[1].decode()})
            else:
                pieces.append((written.get(number, content[1].decode("utf-8", "replace")), at))
        if not pieces:
            continue
        if not _joins(first, other):
            named = ", ".join(repr(piece) for piece, _ in pieces[:3])
            what = f"{other.path} has {len(pieces)} pieces that {first.path} lacks ({named}), and the two are"
            raise RequestError(
                Fault(
                    where=where,
                    what=f"{what} tokenizers of kinds that cannot be joined ({_kind(first)}, {_kind(other)})",
                    instead="Write merge.tokenizer=base: tokens that the base does not have are left out.",
                )
            )
        model["vocab"] |= dict(pieces)
        known = {_pair(merge) for merge in model["merges"]}
        merges = [_pair(merge) for merge in other.tree["model"]["merges"]]
        paired = bool(model["merges"]) and isinstance(model["merges"][0], list)
        fresh = [pair for pair in merges if pair not in known and all(part in model["vocab"] for part in pair)]
        model["merges"] += [list(pair) if paired or not model["merges"] else " ".join(pair) for pair in fresh]
    if new or result.count > first.count:
        # The library numbers added tokens behind the pieces anew, unless the pieces name them.
        if isinstance(model["vocab"], dict):
            model["vocab"] |= {added["content"]: added["id"] for added in [*tree["added_tokens"], *new]}
        tree["added_tokens"] = [*tree["added_tokens"], *new]
    return result


_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def rewrite(directory: Path, tokens: Tokens) -> None:
    """Put a joined vocabulary over the first tokenizer's files, which were copied to `directory`."""
    text = json.dumps(tokens.tree, ensure_ascii=False, indent=2)
    (directory / FILE).write_text(text, encoding="utf-8")
    for stale in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer.model"):
        (directory / stale).unlink(missing_ok=True)  # they would say the old vocabulary
    settings_file = directory / "tokenizer_config.json"
    if not settings_file.exists():
        return
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for added in tokens.tree["added_tokens"]:
            own = {key: value for key, value in added.items() if key != "id"}
            decoder.setdefault(str(added["id"]), own)
        settings_file.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def moved_ids(settings: dict[str, Any], before: Tokens, after: Tokens) -> dict[str, Any]:
    """A config or generation config whose token ids are those of the new tokenizer; what it lacks is left out."""
    by_id = before.by_id()

    def one(value: Any) -> int | None:
        return after.find(by_id[value]) if isinstance(value, int) and value in by_id else None

    found = dict(settings)
    for key in _TOKEN_KEYS:
        value = found.get(key)
        if isinstance(value, list):
            found[key] = [new for new in map(one, value) if new is not None]
        elif isinstance(value, int):
            found[key] = one(value)
    return found


# --- contents -----------------------------------------------------------------------------------------------------


def _contents(tree: dict[str, Any]) -> dict[Content, int]:
    vocab = tree["model"]["vocab"]
    # Unigram: a list of [piece, score] in the order of the ids.
    pairs = vocab.items() if isinstance(vocab, dict) else ((one[0], number) for number, one in enumerate(vocab))
    added = {(True, one["content"].encode()): int(one["id"]) for one in tree.get("added_tokens") or []}
    taken = set(added.values())
    read = _reader(tree)
    found: dict[Content, int] = {}
    for piece, number in pairs:
        if number not in taken:
            content = (False, read(piece))
            # Two pieces may stand for the same bytes (`▁` and `<0x20>`): the second goes by its spelling.
            found[content if content not in found else (False, b"\0" + piece.encode())] = int(number)
    return found | added


def _style(tree: dict[str, Any]) -> str:
    """How pieces are written: "bytes" (byte-level), "sentence" (SentencePiece) or "plain"."""
    around = json.dumps([tree.get("pre_tokenizer"), tree.get("decoder"), tree.get("normalizer")], ensure_ascii=False)
    if '"ByteLevel"' in around:
        return "bytes"
    return "sentence" if "▁" in around else "plain"


def _reader(tree: dict[str, Any]) -> Any:
    return {"bytes": _byte_level, "sentence": _sentence_piece, "plain": str.encode}[_style(tree)]


def _byte_table() -> dict[str, int]:
    """Character to byte of byte-level BPE (Radford et al. 2019): printable bytes are themselves, the others follow
    from U+0100 on in their order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTES = _byte_table()


def _byte_level(piece: str) -> bytes:
    try:
        return bytes([_BYTES[character] for character in piece])
    except KeyError:  # a token written as text among the pieces
        return piece.encode()


def _sentence_piece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


def _kind(tokens: Tokens) -> str:
    kind = str(tokens.tree.get("model", {}).get("type", "BPE"))
    return f"{kind} of {_style(tokens.tree)}" if tokens.tree else "old files"


def _joins(one: Tokens, other: Tokens) -> bool:
    models = [tokens.tree.get("model", {}) for tokens in (one, other)]
    return all("merges" in model for model in models) and _style(one.tree) == _style(other.tree)


def _pair(merge: Any) -> tuple[str, str]:
    left, _, right = merge.partition(" ") if isinstance(merge, str) else (merge[0], "", merge[1])
    return left, right
