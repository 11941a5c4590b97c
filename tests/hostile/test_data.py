"""Data that a stranger made, and what a recipe may point at: rows are read, nothing runs, nothing else is reached."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from alignkit.data.reading import columnar, compressed
from tests.hostile.attack import Attack, Ground, mount
from tests.hostile.watching import PLANTED

CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def data(name: str, content: bytes | str | Callable[[Ground], bytes], *words: str, run: str = "lora"):  # type: ignore[no-untyped-def]
    """A data file with this content that somebody trains on."""

    def lay(ground: Ground) -> list[str]:
        ground.write(name, content(ground) if callable(content) else content)
        return ["train", f"recipe={run}", *ground.sound(), f"data=./{name}", *words]

    return lay


def named(*words: str, run: str = "lora"):  # type: ignore[no-untyped-def]
    """Words that a stranger's recipe or page has a person type."""

    def lay(ground: Ground) -> list[str]:
        filled = [
            word.replace("@SECRET", str(ground.secret)).replace("@OUTSIDE", str(ground.outside)) for word in words
        ]
        return ["train", f"recipe={run}", *ground.sound(), *filled]

    return lay


def placed(lay_out: Callable[[Ground], None], *words: str):  # type: ignore[no-untyped-def]
    """A directory ./d that `lay_out` fills."""

    def lay(ground: Ground) -> list[str]:
        (ground.here / "d").mkdir()
        lay_out(ground)
        return ["train", "recipe=lora", *ground.sound(), *(words or ("data=./d",))]

    return lay


def link_out(ground: Ground) -> None:
    (ground.outside / "x.jsonl").write_text(json.dumps(CHAT), encoding="utf-8")
    (ground.here / "d" / "x.jsonl").symlink_to(ground.outside / "x.jsonl")


def link_below(ground: Ground) -> None:
    (ground.outside / "x.jsonl").write_text(json.dumps(CHAT), encoding="utf-8")
    (ground.here / "d" / "e").mkdir()
    (ground.here / "d" / "e" / "x.jsonl").symlink_to("../../../outside/x.jsonl")


def saved_outside(ground: Ground) -> None:
    (ground.here / "d" / "state.json").write_text('{"_data_files": [{"filename": "../../outside/secret.txt"}]}')
    (ground.here / "d" / "dataset_info.json").write_text("{}")


def saved_link(ground: Ground) -> None:
    (ground.here / "d" / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    (ground.here / "d" / "dataset_info.json").write_text("{}")
    (ground.here / "d" / "x.arrow").symlink_to(ground.secret)


def script(ground: Ground) -> None:
    (ground.here / "d" / "d.py").write_text(ground.python(), encoding="utf-8")


def pipe(ground: Ground) -> None:
    os.mkfifo(ground.here / "d" / "x.jsonl")


def arrow(make: Callable[[Any, Ground], Any]) -> Callable[[Ground], bytes]:
    """An Arrow stream of a table."""

    def content(ground: Ground) -> bytes:
        import pyarrow

        table = make(pyarrow, ground)
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    return content


def extension(pyarrow: Any, ground: Ground) -> Any:
    marks = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": ground.pickle()}
    schema = pyarrow.schema([pyarrow.field("text", pyarrow.binary(), metadata=marks)])
    return pyarrow.table([pyarrow.array([b"a"])], schema=schema)


def dictionary_bomb(ground: Ground) -> bytes:
    import io

    import pyarrow
    from pyarrow import parquet

    sink = io.BytesIO()
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 2_000), pyarrow.array(["a" * 1_000_000]))
    parquet.write_table(pyarrow.table({"text": text}), sink, compression="zstd", dictionary_pagesize_limit=1 << 30)
    del text
    pyarrow.default_memory_pool().release_unused()  # what the bomb was made with is no room to read it in
    return sink.getvalue()


def zeros(ground: Ground) -> bytes:
    line = json.dumps({"text": "0" * 500_000}).encode() + b"\n"
    return gzip.compress(line * 20, 6)


def zstd_zeros(ground: Ground) -> bytes:
    import pyarrow

    line = json.dumps({"text": "0" * 500_000}).encode() + b"\n"
    packed: bytes = pyarrow.compress(line * 20, codec="zstd", asbytes=True)
    return packed


def parquet_lie(ground: Ground) -> bytes:
    return b"PAR1" + b"\x15\x00" * 40 + struct.pack("<I", 0x7FFFFFF0) + b"PAR1"


def tar(ground: Ground) -> bytes:
    import io
    import tarfile

    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        entry = tarfile.TarInfo("../../outside/evil.jsonl")
        file.addfile(entry, io.BytesIO(b""))
    return sink.getvalue()


def row(**values: Any) -> str:
    return json.dumps(values) + "\n"


PAIR = row(prompt="a", chosen="b", rejected="c") * 12
ASKED = row(prompt="a", answer="b") * 12
REWARD = "rlhf.rewards=[{name: regex, pattern: '(a+)+$'}]"
REDOS = "(a|a)*(b|b)*(a|a)*$" * 3
WHERE = r"x\.jsonl line 1"


def schema(text: str):  # type: ignore[no-untyped-def]
    """A JSON schema that a recipe of rewards names."""

    def lay(ground: Ground) -> list[str]:
        ground.write("s.json", text.replace("@SECRET", ground.secret.as_uri()))
        ground.write("x.jsonl", ASKED)
        words = ["data=./x.jsonl", "rlhf.rewards=[{name: json-schema, schema: ./s.json}]"]
        return ["train", "recipe=rlhf", *ground.sound(), *words]

    return lay


def function(name: str):  # type: ignore[no-untyped-def]
    """A reward that is code, which nobody allowed."""

    def lay(ground: Ground) -> list[str]:
        ground.write("evil.py", ground.python())
        ground.write("x.jsonl", ASKED)
        return ["train", "recipe=rlhf", *ground.sound(), "data=./x.jsonl", f"rlhf.rewards=[{{name: '{name}'}}]"]

    return lay


def server(url: str):  # type: ignore[no-untyped-def]
    """A teacher's server at an address that is none."""

    def lay(ground: Ground) -> list[str]:
        words = ["run.root=runs", "cache.entries=20", f"teacher={ground.model}", f"data={ground.rows}"]
        return [
            "train",
            "recipe=teacher-cache",
            *words,
            "cache.server.url=" + url.replace("@SECRET", str(ground.secret)),
        ]

    return lay


ATTACKS = [
    # bombs
    Attack("gzip-bomb", data("x.jsonl.gz", zeros), r"x\.jsonl\.gz.*unpacks to more than"),
    Attack("zstd-bomb", data("x.jsonl.zst", zstd_zeros), r"x\.jsonl\.zst.*unpacks to more than"),
    Attack("gzip-bomb-array", data("x.json.gz", zeros), r"x\.json\.gz.*(unpacks|JSON)"),
    Attack("gzip-bomb-table", data("x.csv.gz", zeros), r"x\.csv\.gz"),
    Attack("gzip-bomb-text", data("x.txt.gz", zeros, "data.holdout=0"), r"x\.txt\.gz.*unpacks to more than"),
    Attack("dictionary-bomb", data("x.parquet", dictionary_bomb), r"x\.parquet.*(unpacks|GB)", megabytes=2500),
    Attack("zip", data("x.zip", b"PK\x03\x04" + b"\0" * 99), r"data\.name.*Unpack it first"),
    Attack("xz", data("x.jsonl.xz", b"\xfd7zXZ\0" * 9), r"data\.name.*unxz"),
    Attack("tar", data("x.tar", tar), r"data\.name.*Unpack it first"),
    Attack("gzip-no-gzip", data("x.jsonl.gz", b"\x1f\x8b" + b"\xff" * 99), r"x\.jsonl\.gz.*not sound gzip"),
    # files that lie
    Attack("parquet-lie", data("x.parquet", parquet_lie), r"x\.parquet.*Parquet"),
    Attack("parquet-pickle", data("x.parquet", Ground.pickle), r"x\.parquet.*Parquet"),
    Attack("arrow-pickle", data("x.arrow", Ground.pickle), r"x\.arrow.*Arrow"),
    Attack("arrow-lie", data("x.arrow", b"\xff\xff\xff\xff\xf0\xff\xff\x7f" + b"\0" * 64), r"x\.arrow.*Arrow"),
    Attack("arrow-extension", data("x.arrow", arrow(extension)), r"x\.arrow"),
    Attack("pickle-as-json", data("x.jsonl", Ground.pickle), r"x\.jsonl"),
    Attack("pickle", data("x.pkl", Ground.pickle), r"data\.name.*not read here"),
    # JSON
    Attack(
        "json-deep",
        data("x.jsonl", '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n"),
        rf"{WHERE}.*nested too deeply",
    ),
    Attack("json-deep-array", data("x.json", "[" * 100_000), r"x\.json line 1.*nested too deeply"),
    Attack("json-nan", data("x.jsonl", '{"text": NaN}\n'), rf"{WHERE}.*NaN"),
    Attack("json-infinite", data("x.jsonl", '{"prompt": "a", "answer": 1e999999}\n', run="sft"), r"x\.jsonl"),
    Attack("json-digits", data("x.jsonl", '{"text": ' + "9" * 50_000 + "}\n"), rf"{WHERE}.*digits"),
    Attack("json-surrogate", data("x.jsonl", '{"text": "\\ud800"}\n'), rf"{WHERE}.*lone surrogate"),
    Attack("json-twice", data("x.jsonl", '{"text": "a", "text": "b"}\n'), rf"{WHERE}.*twice"),
    Attack("json-nul", data("x.jsonl", b'{"text": "a\0"}\n'), rf"{WHERE}"),
    Attack("json-escape", data("x.jsonl", '{"text": \x1b]52;c;aGk=\x07\u202e}\n'), rf"{WHERE}"),
    Attack("json-role", data("x.jsonl", row(messages=[{"role": "\x1b[2J\u202e", "content": "a"}])), r"x\.jsonl"),
    Attack("json-column", data("x.jsonl", row(**{"\x1b]0;x\x07": "a"})), r"x\.jsonl|data"),
    Attack("json-special", data("x.jsonl", row(text={"__reduce__": ["os.system", "x"]})), r"x\.jsonl"),
    # tables
    Attack("csv-quote", data("x.csv", 'text\n"' + "a\n" * 200_000), r"x\.csv line 2.*never closed"),
    Attack("csv-columns", data("x.csv", ",".join(f"c{n}" for n in range(20_000)) + "\n"), r"x\.csv|data"),
    Attack("csv-nul", data("x.csv", b"text\na\0b\n"), r"x\.csv line 2.*NUL"),
    # places
    Attack("link-out", placed(link_out), r"data\.name.*link that leads out"),
    Attack("link-below", placed(link_below), r"data\.name.*link that leads out"),
    Attack("saved-outside", placed(saved_outside), r"data\.name.*secret\.txt"),
    Attack("saved-link", placed(saved_link), r"data\.name.*link that leads out"),
    Attack("script", placed(script), r"data\.name.*no file to read"),
    Attack("script-itself", placed(script, "data=./d/d.py"), r"data\.name.*not read here"),
    Attack("pipe", placed(pipe, "data=./d/x.jsonl"), r"data\.name.*no regular file"),
    Attack("device", named("data=/dev/zero"), r"data\.name"),
    Attack("directory-pipe", placed(pipe), r"data\.name.*no file to read"),
    Attack("url", named("data=http://203.0.113.1/x.jsonl"), r"data\.name"),
    Attack("file-url", named("data=file://@SECRET"), r"data\.name"),
    Attack("ftp-url", named("data=ftp://203.0.113.1/x.jsonl"), r"data\.name"),
    Attack("hub-offline", named("data=hub:evil/data"), r"data\.name.*evil/data"),
    Attack("hub-up", named("data=hub:../../outside"), r"data\.name.*cannot be the name"),
    Attack("generated-up", named("data=generated:../../../outside"), r"data\.name.*no generator"),
    Attack("generated-module", named(f"data=generated:{PLANTED}"), r"data\.name.*no generator"),
    Attack("map-format", named("data.map={text: '{messages.__class__.__mro__}'}"), r"data\.map"),
    Attack("map-index", named("data.map={text: '{messages[0].__class__}'}"), r"data\.map"),
    # code and addresses
    Attack("function", function("evil:score"), r"rlhf\.rewards\[0\]\.name.*--allow-code"),
    Attack("function-file", function("./evil.py:score"), r"rlhf\.rewards\[0\]\.name.*--allow-code"),
    Attack("function-planted", function(f"{PLANTED}.inner:score"), r"rlhf\.rewards\[0\]\.name.*--allow-code"),
    Attack("function-builtin", function("os:system"), r"rlhf\.rewards\[0\]\.name.*--allow-code"),
    Attack("schema-file", schema('{"$ref": "@SECRET"}'), r"schema.*only references within"),
    Attack("schema-http", schema('{"$ref": "http://203.0.113.1/s.json"}'), r"schema.*only references within"),
    Attack("schema-circle", schema('{"$ref": "#"}'), r"schema.*circles"),
    Attack("schema-deep", schema('{"not":' * 30_000), r"schema"),
    Attack("schema-pattern", schema('{"pattern": "("}'), r"schema.*pattern"),
    Attack("server-file", server("file://@SECRET"), r"cache\.server\.url.*no address"),
    Attack("server-gopher", server("gopher://203.0.113.1/"), r"cache\.server\.url.*no address"),
    Attack(
        "server-password", server("http://u:hunter2-never-to-be-seen@203.0.113.1/v1"), r"cache\.server\.url.*password"
    ),
    Attack("server-token", server("http://203.0.113.1/v1?token=hunter2-never-to-be-seen"), r"cache\.server\.url.*\?"),
    Attack("tracker", named("report_to=[wandb]"), r"report_to.*not installed"),
    Attack("targets-redos", named("adapter.targets=" + "(.*.*)*.*.*.*x" * 3), r"adapter\.targets.*took more than"),
]


@pytest.mark.parametrize("attack", [pytest.param(one, id=one.name) for one in ATTACKS])
def test_hostile_data_are_refused(ground: Ground, attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "HARMLESS", 2_000_000)  # smaller bombs are as good
    monkeypatch.setattr(columnar, "LARGEST", 300_000_000)
    mount(attack, ground)
