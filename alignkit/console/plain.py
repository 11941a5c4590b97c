"""Text from elsewhere (names, data, answers, what a library says of a file) as text that steers no terminal."""

from __future__ import annotations

import re

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but for tab and line end; ESC and the 8-bit CSI are among them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of what follows (CVE-2021-42574)
    "\u2028\u2029\ud800-\udfff]"
)


def printable(text: str) -> str:
    """``text`` with every character that steers a terminal, or cannot be written, spelled out: ESC becomes \\x1b."""
    return _STEERING.sub(_spelled, text) if not text.isascii() or _STEERING.search(text) else text


def _spelled(match: re.Match[str]) -> str:
    number = ord(match.group())
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
