"""The tokenizer's chat template and the special tokens it writes: one home, for training and for generation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from alignkit.console.bounds import TooMuchError, bounded
from alignkit.data.rows import Message
from alignkit.errors import Fault, RequestError

Tools: TypeAlias = "list[dict[str, Any]] | None"
"""The functions on offer in a conversation, as JSON schemas."""

SECONDS, SECONDS_EACH = 3.0, 0.05
"""What a call of the template may take, and what it may take longer for each conversation; one takes 0.0002 s."""
MEMORY = 2_000_000_000
"""Bytes by which the process may grow while it renders."""


def apply_template(
    tokenizer: Any, batch: Sequence[Sequence[Message]], generation: bool, tools: Sequence[Tools] | None = None
) -> list[str]:
    """The one call of the chat template; training and generation both come through here.

    ``tools``: for each conversation what it may call; None: no conversation has any. Raises whatever the template does.
    """
    if tools is None and not any("tool_calls" in message for messages in batch for message in messages):
        return _call(tokenizer, batch, generation, None)
    texts = []
    for number, messages in enumerate(batch):
        offered = (tools[number] if tools is not None else None) or None
        try:
            texts += _call(tokenizer, [_arguments(messages, as_text=False)], generation, offered)
        except RequestError:
            raise
        except Exception:  # some templates write the arguments as they are, and so need them as text
            if not any(message.get("tool_calls") for message in messages):
                raise
            texts += _call(tokenizer, [_arguments(messages, as_text=True)], generation, offered)
    return texts


def _call(tokenizer: Any, batch: Sequence[Sequence[Message]], generation: bool, tools: Tools) -> list[str]:
    with within_limits(len(batch)):
        texts: list[str] = tokenizer.apply_chat_template(
            [list(messages) for messages in batch], tools=tools, tokenize=False, add_generation_prompt=generation
        )
    return texts


@contextmanager
def within_limits(conversations: int) -> Iterator[None]:
    """A limit in time and memory around a template, which is a program of the model's author: RequestError beyond."""
    try:
        with bounded(SECONDS + SECONDS_EACH * conversations, MEMORY):
            yield
    except TooMuchError as limit:
        raise RequestError(
            Fault(
                where="model.name",
                what=f"the chat template {limit} for {conversations} conversation{'s' if conversations > 1 else ''}",
                instead="Install another with data.template=chatml, or take a model from a source you trust.",
            )
        ) from None


def compiled_template(tokenizer: Any) -> Callable[[list[Message]], str]:
    """The template as a function of messages that have a role and a text and nothing else; no generation prompt.

    Such messages need none of what transformers does to others before it renders them, which costs half as much again.
    Whoever calls this compares with `apply_template` now and then.
    """
    try:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        template = _compile_jinja_template(tokenizer.get_chat_template())
    except Exception:  # another transformers keeps its environment elsewhere, or the template is no Jinja
        return lambda messages: apply_template(tokenizer, [messages], False)[0]
    names = {"tools": None, "documents": None, "add_generation_prompt": False, **tokenizer.special_tokens_map}
    return lambda messages: str(template.render(names, messages=messages))


def _arguments(messages: Sequence[Message], *, as_text: bool) -> list[Message]:
    """The messages with the arguments of every tool call as an object, which most templates want, or as JSON text."""
    return [
        {**message, "tool_calls": [_call_arguments(call, as_text) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _call_arguments(call: Any, as_text: bool) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    arguments = function["arguments"]
    if as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not as_text and isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:  # not JSON: the template gets it as it stands
            return call
    return {**call, "function": {**function, "arguments": arguments}}


def try_template(
    tokenizer: Any, wanted: Sequence[tuple[Sequence[Message], Tools, str]], generation: bool
) -> list[str | Fault]:
    """The template over many conversations, each with its tools and its place; a Fault where it refuses one.

    Raises RequestError when there is no template.
    """
    if not wanted:
        return []
    if not tokenizer.chat_template:
        raise no_template(wanted[0][2])
    tools = [offered for _, offered, _ in wanted] if any(offered for _, offered, _ in wanted) else None
    try:
        return [*apply_template(tokenizer, [messages for messages, _, _ in wanted], generation, tools)]
    except RequestError:
        raise
    except Exception:  # a template is the model author's program: it may raise anything
        return [_try_one(tokenizer, *one, generation) for one in wanted]


def _try_one(tokenizer: Any, messages: Sequence[Message], tools: Tools, where: str, generation: bool) -> str | Fault:
    try:
        return apply_template(tokenizer, [messages], generation, [tools] if tools else None)[0]
    except RequestError:
        raise
    except Exception as error:  # as above
        roles = ", ".join(message["role"] for message in messages)
        return Fault(
            where=where,
            what=f"the model's chat template refuses this conversation (roles {roles}): {error}",
            instead="Change the roles or their order, or take a model whose template allows them.",
        )


def prompt_text(tokenizer: Any, prompt: Sequence[Message] | str, tools: Tools = None) -> str:
    """What generation starts from, as text; a plain string stays as it is."""
    if isinstance(prompt, str):
        return prompt
    if not tokenizer.chat_template:
        raise no_template("model")
    return apply_template(tokenizer, [prompt], True, [tools] if tools else None)[0]


def no_template(where: str) -> RequestError:
    """The error for conversations and a model that has no chat template."""
    return RequestError(
        Fault(
            where=where,
            what="the rows are conversations, and the model's tokenizer has no chat template",
            instead="Write data.template=chatml to install one, or take an instruct model, or data with plain `prompt` "
            "and `completion` text.",
        )
    )


def special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """A pattern that finds the tokenizer's special tokens in rendered text, the longest first."""
    names = sorted(special_names(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) if names else r"(?!)")


def special_names(tokenizer: Any) -> set[str]:
    """The tokenizer's special tokens as text."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return {name for name in (*added, *tokenizer.all_special_tokens) if name}


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The tokenizer's special tokens as ids."""
    added = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset({*added, *tokenizer.all_special_ids})


def last_special(special: re.Pattern[str], text: str) -> int:
    """Where the special token that ends `text` (but for white space) begins; the length of `text` when none does."""
    end = len(text.rstrip())
    tail = max(0, end - 128)
    for match in special.finditer(text, tail, end):
        if match.end() == end:
            return match.start()
    return len(text)
