"""A chat template is put on a tokenizer: its tokens, its end of turn as eos, and what a person should hear of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from alignkit.data.encoding.rendering import end_of_turn
from alignkit.data.encoding.templating import within_limits
from alignkit.data.encoding.tokenizing import plain_prefix
from alignkit.data.templates.catalogue import KEY, Template, find
from alignkit.errors import Fault, RequestError

_TOKEN_LIKE = re.compile(r"<\|[^\s|<>]{1,60}\|>|<(?:start|end)_of_(?:turn|role|text)>")
"""How special tokens of chat templates are written; looked for in what a template of unknown tokens renders."""

_EOS = "<|endoftext|>"
"""Added as eos where a template ends its turns with the tokenizer's eos and there is none."""

_TRIED = (
    [("system", "sys-0"), ("user", "ask-1"), ("assistant", "say-2"), ("user", "ask-3"), ("assistant", "say-4")],
    [("user", "ask-1"), ("assistant", "say-2"), ("user", "ask-3"), ("assistant", "say-4")],
    [("user", "ask-1"), ("assistant", "say-2")],
)
"""Conversations to try a template on; some refuse a system prompt or a second question."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A tokenizer with its new template. ``added``: tokens that it lacked; ``written``: all that the template writes
    apart from what the tokenizer had as its eos; ``eos_before``: the id that ended a text before, where it changed."""

    tokenizer: Any
    added: list[str]
    written: list[str]
    eos_before: int | None
    said: str


def install(tokenizer: Any, name: str) -> Installed:
    """Give `tokenizer`, in place, the template that `data.template` names, with everything that it needs.

    Missing special tokens are added. eos becomes the token that ends the template's turns, so that generation stops
    there. A padding token that is (or was set to) eos gives way to another special token where there is one, so that
    nothing that pads is ever what is learned. A shipped template begins with BOS where the tokenizer itself puts one
    before every text, since the model has never read a text without.

    Raises:
        RequestError: there is no such template, it is no Jinja, or it does not render a plain conversation.
    """
    template = find(name)
    own = tokenizer.chat_template
    eos = tokenizer.eos_token_id
    text = _with_bos(template, tokenizer)
    size = len(tokenizer)
    tokenizer.chat_template = text
    added: list[str] = []
    if eos is None and "eos_token" in text:
        added += _add(tokenizer, [_EOS])
        tokenizer.eos_token = _EOS
    rendered = _try(tokenizer, template)
    written = list(template.tokens) if template.tokens is not None else _found_in(rendered)
    added += _add(tokenizer, written)
    end = end_of_turn(tokenizer)
    if end is not None and end != tokenizer.eos_token:
        tokenizer.eos_token = end
    _set_padding(tokenizer, written)
    changed = eos is not None and tokenizer.eos_token_id != eos
    said = _said(template, own, text, added, tokenizer, end, changed)
    assert len(tokenizer) == size + len(added)
    return Installed(tokenizer, added, [*dict.fromkeys([*written, *added])], eos if changed else None, said)


def _with_bos(template: Template, tokenizer: Any) -> str:
    begins_so = tokenizer.bos_token_id is not None and tokenizer.bos_token_id in plain_prefix(tokenizer)
    if template.shipped and begins_so and "bos_token" not in template.text:
        return "{{- bos_token }}" + template.text
    return template.text


def _try(tokenizer: Any, template: Template) -> str:
    """The longest of the tried conversations that the template takes, rendered."""
    reason = ""
    for turns in _TRIED:
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            with within_limits(1):
                text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        except RequestError:
            raise
        except Exception as error:  # a template is a person's own program: it may raise anything
            reason = reason or f"it refuses a plain conversation: {error}"
            continue
        lost = [content for role, content in turns if content not in text]
        if not lost:
            return text
        reason = reason or f"it leaves out what was said ({turns[0][0]}: {lost[0]})"
    raise RequestError(Fault(where=KEY, what=f"{template.name}: {reason}", instead="Correct it, or take another."))


def _found_in(rendered: str) -> list[str]:
    return list(dict.fromkeys(_TOKEN_LIKE.findall(rendered)))


def _add(tokenizer: Any, tokens: list[str]) -> list[str]:
    """Make every token special, and one id whatever stands around it; returns those that were not there."""
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    special = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
    lacking = [token for token in tokens if token not in special or not special[token].special]
    if lacking:
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in lacking], True)
    return [token for token in tokens if token not in known]


def _set_padding(tokenizer: Any, written: list[str]) -> None:
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    taken = {tokenizer.eos_token, tokenizer.bos_token, *written}
    others = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    free = [token for token in others if token not in taken and re.search("pad|unk", token, re.IGNORECASE)]
    free.sort(key=lambda token: "pad" not in token.lower())
    if free:
        tokenizer.pad_token = free[0]
    elif tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # masks never take padding from its id


def _said(
    template: Template, own: str | None, text: str, added: list[str], tokenizer: Any, end: str | None, changed: bool
) -> str:
    if own == text:
        parts = [f"template {template.name}: the model has it already"]
    else:
        parts = [f"template {template.name} " + ("in place of the model's own" if own else "installed")]
    if added:
        plural = "tokens" if len(added) > 1 else "token"
        verb = "their embeddings are" if len(added) > 1 else "its embedding is"
        parts.append(f"added {len(added)} {plural} {', '.join(added)}; {verb} trained")
    if end is None:
        parts.append(f"no special token ends its turns, so {tokenizer.eos_token} does")
    elif changed:
        parts.append(f"{end} ends an answer")
    return "; ".join(parts)
