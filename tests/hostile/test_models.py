"""Models that a stranger made: weights are read, and nothing that comes with them runs or leads elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.data.encoding import templating
from tests.hostile.attack import Attack, Ground, mount
from tests.hostile.models import adapter, code, fifo, gone, header, holds, index, link, model, said, template
from tests.hostile.watching import PLANTED

WHOLE = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
BIG = "9" * 30
NAME = r"model\.name"
LOOP = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
DOUBLED = "{% set n = namespace(a='aaaa') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}"


AUTO = {"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.X", "AutoTokenizer": "modeling_x.X"}
DONE = "step 1/1"


def custom_generate(ground: Ground, place: Path) -> None:
    """Code that transformers runs for a model that is trusted."""
    (place / "custom_generate").mkdir()
    (place / "custom_generate" / "generate.py").write_text(ground.python(), encoding="utf-8")


ATTACKS = [
    # weights that are programs
    Attack(
        "bin", model(gone("model.safetensors"), holds("pytorch_model.bin", Ground.pickle)), rf"{NAME}.*can run code"
    ),
    Attack(
        "bin-in-parts", model(gone("model.safetensors"), holds("pytorch_model-1.bin", Ground.pickle)), "can run code"
    ),
    Attack("pt", model(gone("model.safetensors"), holds("model.pt", Ground.pickle)), rf"{NAME}.*can run code"),
    Attack("bin-as-safetensors", model(holds("model.safetensors", Ground.pickle)), NAME),
    Attack(
        "bin-allowed",
        model(gone("model.safetensors"), holds("pytorch_model.bin", Ground.pickle), words=("model.allow_pickle=true",)),
        NAME,
    ),
    Attack("adapter-bin", adapter(gone("adapter_model.safetensors"), holds("adapter_model.bin", Ground.pickle)), NAME),
    Attack(
        "gguf-pickle",
        lambda g: ["train", "recipe=lora", *g.sound()[1:], f"model={g.write('m.gguf', g.pickle())}"],
        NAME,
    ),
    Attack("h5", model(gone("model.safetensors"), holds("tf_model.h5", Ground.pickle)), rf"{NAME}.*holds no weights"),
    Attack("msgpack", model(gone("model.safetensors"), holds("flax_model.msgpack", Ground.pickle)), "holds no weights"),
    # code that comes with a model
    Attack(
        "auto-map",
        model(
            code("modeling_x.py"),
            said("config.json", model_type="x", auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
        ),
        r"trust_remote_code.*Python code of its own",
    ),
    Attack(
        "auto-map-tokenizer",
        model(
            code("tok.py"),
            said("tokenizer_config.json", tokenizer_class="X", auto_map={"AutoTokenizer": ["tok.X", "tok.X"]}),
        ),
        r"model.*(trust_remote_code|tokenizer)",
    ),
    # what transformers passes over without a word, and nothing of it may run: the run is done as ever
    Attack("auto-map-known", model(code("modeling_x.py"), said("config.json", auto_map=AUTO)), DONE, 0),
    Attack("auto-map-elsewhere", model(said("config.json", auto_map={"AutoModel": "evil/repo--x.X"})), DONE, 0),
    Attack("generate", model(custom_generate, said("generation_config.json", custom_generate="./m")), DONE, 0),
    Attack("quantizer", model(said("config.json", quantization_config={"quant_method": PLANTED})), DONE, 0),
    Attack("kernel", model(said("config.json", attn_implementation="evil/kernel")), r"trust_remote_code.*evil/kernel"),
    Attack("kernel-deep", model(said("config.json", text_config={"_attn_implementation": "e/k:f"})), r"code of e/k:f"),
    Attack(
        "megatron",
        adapter(said("adapter_config.json", megatron_config={"a": 1}, megatron_core=PLANTED)),
        rf"{NAME}.*megatron",
    ),
    Attack("peft-unknown", adapter(said("adapter_config.json", peft_type=PLANTED)), rf"{NAME}.*{PLANTED}"),
    Attack("peft-strange-key", adapter(said("adapter_config.json", corda_config={"cache_file": "@SECRET"})), NAME),
    # files that lead out
    Attack("index-up", model(index(a="../outside/w.safetensors")), rf"{NAME}.*outside its own directory"),
    Attack("index-absolute", model(index(a="@OUTSIDE/w.safetensors")), rf"{NAME}.*outside its own directory"),
    Attack("index-backslash", model(index(a="..\\outside\\w.safetensors")), rf"{NAME}.*outside its own directory"),
    Attack("index-missing", model(index(a="b.safetensors")), rf"{NAME}.*is missing"),
    Attack(
        "index-list",
        model(index(a="a.safetensors"), said("model.safetensors.index.json", weight_map=[1])),
        "weight_map",
    ),
    Attack("weights-link", model(link("model.safetensors")), rf"{NAME}.*link that leads out"),
    Attack("config-link", model(link("config.json")), rf"{NAME}.*link that leads out"),
    Attack("tokenizer-link", model(link("tokenizer.json")), rf"{NAME}.*link that leads out"),
    Attack("template-link", model(link("chat_template.jinja")), rf"{NAME}.*link that leads out"),
    Attack("adapter-weights-link", adapter(link("adapter_model.safetensors")), rf"{NAME}.*link that leads out"),
    Attack("adapter-base-secret", adapter(said("adapter_config.json", base_model_name_or_path="@SECRET")), rf"{NAME}"),
    Attack("adapter-base-up", adapter(said("adapter_config.json", base_model_name_or_path="../../outside")), NAME),
    Attack(
        "adapter-base-hub",
        adapter(said("adapter_config.json", base_model_name_or_path="evil/model")),
        rf"{NAME}.*evil/model",
    ),
    Attack("adapter-base-url", adapter(said("adapter_config.json", base_model_name_or_path="http://1.2.3.4/m")), NAME),
    Attack(
        "adapter-base-itself", adapter(said("adapter_config.json", base_model_name_or_path=".")), rf"{NAME}.*itself"
    ),
    Attack("adapter-base-list", adapter(said("adapter_config.json", base_model_name_or_path=["x"])), NAME),
    # headers that lie
    Attack("header-petabytes", model(header(b"{}", length=1 << 50)), rf"{NAME}.*header would have"),
    Attack("header-negative", model(header(b"{}", length=(1 << 64) - 1)), NAME),
    Attack("header-short", model(header(b"{}", length=90_000)), rf"{NAME}.*cut short"),
    Attack("header-empty", model(holds("model.safetensors", lambda ground: b"")), NAME),
    Attack("header-deep", model(header(b'{"a":' + b"[" * 90_000)), NAME),
    Attack("header-array", model(header(b"[1]")), NAME),
    Attack("tensor-petabytes", model(header({"a": {**WHOLE, "shape": [1 << 25, 1 << 25]}}, data=b"0" * 16)), NAME),
    Attack(
        "tensor-overlap",
        model(header({"a": WHOLE, "b": {**WHOLE, "data_offsets": [8, 24]}}, data=b"0" * 24)),
        "overlap",
    ),
    Attack(
        "tensor-beyond",
        model(header({"a": {**WHOLE, "data_offsets": [1 << 40, (1 << 40) + 16]}}, data=b"0" * 16)),
        NAME,
    ),
    Attack("tensor-negative", model(header({"a": {**WHOLE, "data_offsets": [-16, 0]}}, data=b"0" * 16)), NAME),
    Attack("tensor-hole", model(header({"a": {**WHOLE, "data_offsets": [16, 32]}}, data=b"0" * 32)), NAME),
    Attack("weights-fifo", model(fifo("model.safetensors")), NAME),
    Attack("config-fifo", model(fifo("config.json")), NAME),
    Attack("tokenizer-fifo", model(fifo("tokenizer.json")), NAME),
    # numbers that ask for the moon
    Attack("layers", model(said("config.json", num_hidden_layers=10**9)), rf"{NAME}.*num_hidden_layers"),
    Attack("vocabulary", model(said("config.json", vocab_size=10**12)), rf"{NAME}.*vocab_size"),
    Attack("hidden", model(said("config.json", hidden_size=10**10, head_dim=10**9)), rf"{NAME}.*hidden_size"),
    Attack("config-negative", model(said("config.json", vocab_size=-1)), NAME),
    Attack("config-text", model(said("config.json", hidden_size="@SHELL")), NAME),
    Attack("config-deep", model(holds("config.json", lambda g: '{"model_type":' + "[" * 200_000)), r"config\.json"),
    Attack("config-array", model(holds("config.json", lambda g: "[]")), r"config\.json"),
    Attack("config-digits", model(holds("config.json", lambda g: '{"a": ' + "9" * 9999 + "}")), r"config\.json"),
    Attack("rank", adapter(said("adapter_config.json", r=10**10)), NAME),
    Attack("rank-pattern", adapter(said("adapter_config.json", rank_pattern={"q_proj": 10**10})), NAME),
    Attack("rank-text", adapter(said("adapter_config.json", r="@SHELL")), NAME),
    Attack("replication", adapter(said("adapter_config.json", layer_replication=[[0, 2]] * 100_000)), NAME),
    Attack("targets-redos", adapter(said("adapter_config.json", target_modules="(.*.*)*.*.*.*x" * 5)), NAME),
    Attack("targets-list", adapter(said("adapter_config.json", target_modules=[{"a": 1}])), NAME),
    # tokenizers
    Attack("tokenizer-deep", model(holds("tokenizer.json", lambda g: "[" * 200_000)), rf"{NAME}.*tokenizer"),
    Attack("tokenizer-array", model(holds("tokenizer.json", lambda g: "[]")), rf"{NAME}.*tokenizer"),
    Attack("tokenizer-python", model(gone("tokenizer.json"), holds("tokenizer.model", Ground.pickle)), NAME),
    Attack(
        "tokenizer-vocab-pickle",
        model(
            said("tokenizer_config.json", tokenizer_class="TransfoXLTokenizer"),
            gone("tokenizer.json"),
            holds("vocab.bin", Ground.pickle),
        ),
        NAME,
    ),
    # chat templates
    Attack("template-mro", model(template("{{ ''.__class__.__mro__[1].__subclasses__() }}")), r"(template|unsafe)"),
    Attack(
        "template-cycler",
        model(template("{{ cycler.__init__.__globals__.os.system('@SHELL') }}")),
        r"(template|unsafe)",
    ),
    Attack(
        "template-lipsum",
        model(template("{{ lipsum.__globals__['os'].popen('@SHELL').read() }}")),
        r"(template|unsafe)",
    ),
    Attack("template-self", model(template("{{ self._TemplateReference__context.environ }}")), r"template"),
    Attack("template-format", model(template("{{ '{0.__class__.__mro__}'.format(messages) }}")), r"template"),
    Attack(
        "template-attr",
        model(template("{{ messages|attr('__class__') }}{{ (messages|attr('__init__')).x.y }}")),
        "template",
    ),
    Attack("template-namespace", model(template("{{ namespace.__init__.__globals__ }}")), r"template"),
    Attack(
        "template-raise",
        model(template("{{ raise_exception.__globals__['__builtins__'].open('@SHELL') }}")),
        "template",
    ),
    Attack("template-include", model(template("{% include '/etc/passwd' %}")), r"template"),
    Attack("template-import", model(template("{% import 'os' as os %}{{ os.system('@SHELL') }}")), r"template"),
    Attack("template-loop", model(template(LOOP)), r"template.*took more than"),
    Attack("template-range", model(template("{% for a in range(10**12) %}{% endfor %}")), r"template"),
    Attack("template-string", model(template("{{ 'a' * 10**11 }}")), r"template"),
    Attack(
        "template-string-steps",
        model(template(DOUBLED)),
        "template",
    ),
    Attack("template-power", model(template("{{ (9**9**9)|string|length }}")), r"template"),
    Attack(
        "template-macro", model(template("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}")), r"template"
    ),
    Attack("template-list", model(template("{% set x = [0] * 10**11 %}{{ x }}")), r"template"),
    Attack("template-center", model(template("{{ 'a'.center(10**11) }}")), r"template"),
    Attack("template-width", model(template("{{ '%099999999999d' % 1 }}")), r"template"),
    Attack(
        "template-filter", model(template("{{ [1,2,3]|map('attr', '__class__')|list|first }}{{ x.y.z }}")), r"template"
    ),
    Attack("template-syntax", model(template("{% for %}")), r"template"),
    Attack(
        "template-escape",
        model(template("\x1b]52;c;aGk=\x07{{ raise_exception('\x1b]52;c;aGk=\x07 \u202e') }}")),
        r"template",
    ),
]


@pytest.mark.parametrize("attack", [pytest.param(one, id=one.name) for one in ATTACKS])
def test_a_hostile_model_is_refused(ground: Ground, attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templating, "SECONDS", 0.5)  # an endless one takes no longer to be told
    monkeypatch.setattr(templating, "MEMORY", 300_000_000)
    mount(attack, ground)
