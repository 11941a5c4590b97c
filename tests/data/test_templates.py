"""Chat templates that alignkit installs: what they write, the tokens they bring, and what a wrong one gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignkit.data.templates.catalogue import find, names, template_fault, template_text
from alignkit.data.templates.install import install
from alignkit.errors import RequestError
from tests.bases import END, base_tokenizer
from tests.tiny import CHATML, build_tokenizer

CHAT = [
    {"role": "system", "content": "Sys."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "Bye"},
]
PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
WRITTEN = {
    "chatml": (
        "<|im_start|>system\nSys.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    ),
    "llama3": (
        "<|start_header_id|>system<|end_header_id|>\n\nSys.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi"
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "llama2": f"[INST] <<SYS>>\nSys.\n<</SYS>>\n\nHi [/INST] Yo {END}[INST] Bye [/INST]",
    "mistral": f"[INST] Sys.\n\nHi[/INST] Yo{END}[INST] Bye[/INST]",
    "gemma": (
        "<start_of_turn>user\nSys.\n\nHi<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    ),
    "phi": (
        "<|system|>\nSys.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYo<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>\n"
    ),
    "zephyr": f"<|system|>\nSys.{END}\n<|user|>\nHi{END}\n<|assistant|>\nYo{END}\n<|user|>\nBye{END}\n<|assistant|>\n",
    "alpaca": f"Sys.\n\n### Instruction:\nHi\n\n### Response:\nYo{END}\n\n### Instruction:\nBye\n\n### Response:\n",
    "vicuna": f"Sys. USER: Hi ASSISTANT: Yo{END}USER: Bye ASSISTANT:",
}
ADDED = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "mistral": ["[INST]", "[/INST]"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "phi": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
}
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi": "<|end|>"}


def rendered(tokenizer: Any, messages: list[Any], *, generation: bool = True, **extra: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation, **extra))


def own_file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "own.jinja"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_every_shipped_template_is_tested_here() -> None:
    assert set(names()) == set(WRITTEN)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_base_without_template_gets_one_with_its_tokens(name: str) -> None:
    tokenizer = base_tokenizer()
    before = len(tokenizer)
    done = install(tokenizer, name)
    assert rendered(tokenizer, CHAT) == WRITTEN[name]
    assert done.added == ADDED.get(name, [])
    assert len(tokenizer) == before + len(done.added)
    for token in done.added:
        assert tokenizer(f"a{token}b", add_special_tokens=False)["input_ids"][1:-1] == [
            tokenizer.convert_tokens_to_ids(token)
        ]
        assert token in done.said
    assert tokenizer.eos_token == ENDS.get(name, END)
    assert done.eos_before == (0 if name in ENDS else None)
    text = rendered(tokenizer, CHAT, generation=False)
    shown = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    assert not any(token in shown for token in done.added)


@pytest.mark.parametrize("name", ["alpaca", "vicuna"])
def test_the_preamble_stands_where_there_is_no_system_prompt(name: str) -> None:
    tokenizer = base_tokenizer()
    install(tokenizer, name)
    assert rendered(tokenizer, CHAT[1:]).startswith(PREAMBLE + "\n\n###" if name == "alpaca" else VICUNA + "USER")


@pytest.mark.parametrize("name", WRITTEN)
def test_training_learns_the_answers_and_their_ends_and_nothing_else(name: str) -> None:
    from alignkit.data.encoding.rendering import Renderer
    from alignkit.data.encoding.tokenizing import Encoder
    from alignkit.data.rows import Conversation
    from tests.data.templates import decode_trained

    tokenizer = base_tokenizer()
    install(tokenizer, name)
    chat = Conversation([*CHAT, {"role": "assistant", "content": "Ciao"}], "row 1")
    (row,) = Encoder(tokenizer).encode(Renderer(tokenizer).render([chat])[0])
    end = ENDS.get(name, END)
    between = {"llama2": (" ", " "), "mistral": (" ", ""), "vicuna": (" ", "")}.get(name, ("", ""))
    assert decode_trained(tokenizer, row) == "".join(f"{between[0]}{said}{between[1]}{end}" for said in ("Yo", "Ciao"))


def test_installing_again_adds_nothing() -> None:
    tokenizer = base_tokenizer()
    install(tokenizer, "chatml")
    size, template = len(tokenizer), tokenizer.chat_template
    again = install(tokenizer, "chatml")
    assert (again.added, again.eos_before) == ([], None)
    assert (len(tokenizer), tokenizer.chat_template) == (size, template)
    assert "has it already" in again.said


def test_a_template_of_the_models_own_is_replaced_and_that_is_said() -> None:
    tokenizer = build_tokenizer(CHATML)
    done = install(tokenizer, "phi")
    assert "in place of the model's own" in done.said
    assert rendered(tokenizer, CHAT[1:2]) == "<|user|>\nHi<|end|>\n<|assistant|>\n"
    assert tokenizer.eos_token == "<|end|>" and done.eos_before == 2


def test_the_tokenizer_keeps_it_all_on_disk(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = base_tokenizer()
    install(tokenizer, "chatml")
    tokenizer.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert rendered(read, CHAT) == WRITTEN["chatml"]
    assert (read.eos_token, len(read)) == ("<|im_end|>", len(tokenizer))
    text = WRITTEN["chatml"]
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("specials", "pad", "name", "expected"),
    [
        ((END,), None, "alpaca", END),  # nothing else is there
        ((END,), END, "chatml", END),  # no longer eos
        ((END, "<unk>"), END, "alpaca", "<unk>"),
        ((END, "<unk>", "<pad>"), None, "alpaca", "<pad>"),
        ((END, "<unk>", "<mine>"), "<mine>", "alpaca", "<mine>"),
    ],
)
def test_padding_is_not_eos_where_it_can_be_helped(
    specials: tuple[str, ...], pad: str | None, name: str, expected: str
) -> None:
    tokenizer = base_tokenizer(specials=specials, pad=pad)
    install(tokenizer, name)
    assert tokenizer.pad_token == expected


@pytest.mark.parametrize("name", WRITTEN)
def test_a_base_that_reads_a_bos_first_still_does(name: str) -> None:
    tokenizer = base_tokenizer(specials=(END, "<s>"), bos="<s>")
    install(tokenizer, name)
    text = rendered(tokenizer, CHAT[1:2])
    assert text.startswith("<s>") and text.count("<s>") == 1


def test_llama_2_begins_every_pair_with_bos() -> None:
    tokenizer = base_tokenizer(specials=(END, "<s>"), bos="<s>")
    install(tokenizer, "llama2")
    assert rendered(tokenizer, CHAT[1:]) == f"<s>[INST] Hi [/INST] Yo {END}<s>[INST] Bye [/INST]"


def test_a_tokenizer_without_eos_gets_one_where_the_template_writes_it() -> None:
    tokenizer = base_tokenizer(specials=("<none>",), eos=None)
    done = install(tokenizer, "zephyr")
    assert done.added == [END] and tokenizer.eos_token == END
    assert rendered(tokenizer, CHAT[1:2]) == f"<|user|>\nHi{END}\n<|assistant|>\n"


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
WITH_TOOLS = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "content": "2"},
    {"role": "assistant", "content": "Two.", "reasoning_content": "Easy."},
]


def test_chatml_with_tools() -> None:
    tokenizer = base_tokenizer()
    install(tokenizer, "chatml")
    text = rendered(tokenizer, WITH_TOOLS, generation=False, tools=TOOLS)
    head, rest = text.split("<|im_start|>user\n1+1?", 1)
    assert head.startswith("<|im_start|>system\n") and '"name": "add"' in head and head.endswith("<|im_end|>\n")
    assert rest == (
        '<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\nEasy.\n</think>\n\nTwo.<|im_end|>\n"
    )
    with_system = rendered(tokenizer, [CHAT[0], *WITH_TOOLS], generation=False, tools=TOOLS)
    assert with_system.startswith("<|im_start|>system\nSys.\n\n") and with_system.count("Sys.") == 1


def test_llama_3_with_tools() -> None:
    tokenizer = base_tokenizer()
    install(tokenizer, "llama3")
    text = rendered(tokenizer, WITH_TOOLS, generation=False, tools=TOOLS)
    assert (
        '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "add", "parameters": {"a": 1}}<|eot_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\n2<|eot_id|>"
    ) in text


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("chatml", "llama3")])
def test_templates_without_a_form_for_tools_lose_nothing_in_silence(name: str) -> None:
    tokenizer = base_tokenizer()
    install(tokenizer, name)
    for messages, tools in ((WITH_TOOLS[:2], None), (WITH_TOOLS[:1], TOOLS), ([CHAT[1], WITH_TOOLS[3]], None)):
        with pytest.raises(Exception, match="no form for tools and reasoning"):
            rendered(tokenizer, messages, generation=False, tools=tools)
    with pytest.raises(Exception, match="no form for the role"):
        rendered(tokenizer, [CHAT[1], {"role": "critic", "content": "no"}], generation=False)


OWN = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|stop|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def test_the_tokens_of_a_persons_own_template_are_found_by_rendering(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    done = install(tokenizer, own_file(tmp_path, OWN))
    assert set(done.added) == {"<|system|>", "<|user|>", "<|assistant|>", "<|stop|>"}
    assert tokenizer.eos_token == "<|stop|>"


def test_or_are_the_ones_that_its_first_comment_names(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    done = install(tokenizer, own_file(tmp_path, "{# mine\ntokens: <|stop|>\n#}\n" + OWN))
    assert done.added == ["<|stop|>"]
    assert "mine" not in tokenizer.chat_template


def test_a_template_without_end_of_turn_says_that_eos_ends_it(tmp_path: Path) -> None:
    tokenizer = base_tokenizer()
    text = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    done = install(tokenizer, own_file(tmp_path, text))
    assert done.added == [] and tokenizer.eos_token == END
    assert f"no special token ends its turns, so {END} does" in done.said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("{% for m in messages %}\n{{ m }", "line 2: is no Jinja"),
        ("{{ raise_exception('never') }}", "refuses a plain conversation: never"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "leaves out what was said"),
    ],
)
def test_a_wrong_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said):
        install(base_tokenizer(), own_file(tmp_path, text))


def test_names_are_checked() -> None:
    fault = template_fault("chat-ml")
    assert fault is not None and fault.where == "data.template"
    assert "Did you mean chatml" in fault.instead and "llama3" in fault.instead
    missing = template_fault("./not/there.jinja")
    assert missing is not None and "cannot be read" in missing.what
    assert all(template_fault(name) is None for name in names())


def test_a_file_that_transformers_would_take_is_taken(tmp_path: Path) -> None:
    text = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% break %}{% endfor %}"
    assert template_fault(own_file(tmp_path, text)) is None


def test_the_text_decides_and_not_the_name(tmp_path: Path) -> None:
    same = own_file(tmp_path, find("chatml").text)
    assert template_text(same) == template_text("chatml") != template_text("phi")


def test_checking_a_name_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from alignkit.data.templates.catalogue import template_fault as f\n"
        f"assert f('chatml') is None and f({own_file(tmp_path, OWN)!r}) is None and f('nope') is not None\n"
        "assert not {'torch', 'transformers', 'numpy', 'tokenizers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_templates_text_is_part_of_what_decides_a_run(tmp_path: Path) -> None:
    from alignkit.config.sections import Data
    from alignkit.data.fingerprint import content_digest, plain_digest

    rows = tmp_path / "rows.txt"
    rows.write_text("some text")

    def digest(template: str | None) -> str:
        return content_digest(Data(name=str(rows), template=template), plain_digest)

    file = own_file(tmp_path, OWN)
    before = digest(file)
    assert len({digest(None), digest("chatml"), digest("phi"), before}) == 4
    own_file(tmp_path, OWN + " ")
    assert digest(file) != before
