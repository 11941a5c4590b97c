"""Files of every kind become the same rows, and what is broken is named by its line."""

from __future__ import annotations

import json

import pytest

from alignkit.data.reading import readers
from alignkit.data.reading.places import locate, read
from alignkit.data.rows import Row
from alignkit.errors import Fault, RequestError

ROWS = [{"question": "was ist größer?", "answer": "a, b"}, {"question": "zwei\nZeilen", "answer": "🙂"}]


def rows_of(path):
    return [row.values for row in read(locate(str(path)))]


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    import csv

    import pyarrow as arrow
    from pyarrow import parquet

    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    for name, delimiter in (("c.csv", ","), ("d.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["question", "answer"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "e.parquet")
    for name in ("a.jsonl", "b.json", "c.csv", "d.tsv", "e.parquet"):
        assert rows_of(tmp_path / name) == ROWS, name
    assert rows_of(tmp_path) == ROWS * 5


def test_byte_order_mark_line_ends_and_blank_lines_do_no_harm(tmp_path):
    lines = [json.dumps(row).encode() for row in ROWS]
    file = tmp_path / "a.jsonl"
    file.write_bytes(readers.BOM + lines[0] + b"\r\n\r\n" + lines[1] + b"\r\n")
    assert rows_of(file) == ROWS
    assert [row.where for row in read(locate(str(file)))] == [f"{file} line 1", f"{file} line 3"]


def test_text_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(readers.BOM + "ä\r\nb".encode())
    assert rows_of(tmp_path / "a.txt") == [{"text": "ä\nb"}]


@pytest.mark.parametrize(
    ("name", "content", "line", "said"),
    [
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b\n{"text": "c"}\n',
            2,
            "not valid JSON (unterminated string at column 10)",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"text": NaN}\n', 2, "holds NaN"),
        ("a.jsonl", b'{"text": "a"}\n["a"]\n', 2, "must be a JSON object"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', 2, "not UTF-8 (byte 0xe9 at position 11)"),
        ("a.jsonl", b'{"text": "a"}\n\x00\n', 2, "not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n' + b'{"a":' * 200_000, 2, "nested too deeply"),
        ("a.json", b'[{"text": "a"},\n{"text": }]', 2, "not valid JSON"),
        ("a.json", b'[{"text": "a"}\n{"text": "b"}]', 2, "comma is missing"),
        ("a.json", b'[{"text": "a"}]\n]', 1, "follows the end"),
        ("a.json", b'[{"text": "a"},\n"b"]', 2, "must be a JSON object"),
        ("a.json", b'[\n{"text": "\xe9"}]', 2, "not UTF-8"),
        ("a.json", b'[{"text": "a"},', 1, "not valid JSON"),
        ("a.csv", b"question,answer\na,b\nc\n", 3, "has 1 cells, and the first line names 2"),
        ("a.csv", b'text\n"a\n', 2, "not a valid table row"),
        ("a.csv", b"text,text\na,b\n", 1, "`text` stands there twice"),
        ("a.txt", b"a\n\x00", 2, "NUL byte"),
        ("a.txt", b"a\nb\xff", 2, "not UTF-8"),
    ],
)
def test_broken_files(tmp_path, name, content, line, said):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        list(read(locate(str(file))))
    assert str(caught.value).startswith(f"{file} line {line}: ")
    assert said in str(caught.value)


def test_parquet_that_is_cut_short(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RequestError, match=r"a\.parquet: cannot be read as Parquet"):
        rows_of(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_limit_reads_whole_rows_only(tmp_path, name):
    rows = [{"text": f"größe {n}"} for n in range(2000)]
    content = {
        "a.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "a.json": json.dumps(rows, ensure_ascii=False),
        "a.csv": "text\n" + "\n".join(row["text"] for row in rows),
        "a.txt": "ö" * 9000,
    }[name]
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    for limit in range(5000, 5040):  # every place within a row and within a character
        found = list(readers.READERS[file.suffix](file, name, limit))
        assert not [row for row in found if isinstance(row, Fault)]
        values = [row.values for row in found if isinstance(row, Row)]
        if name == "a.txt":
            assert len(values[0]["text"]) == limit // 2
        else:
            assert 50 < len(values) < 1000
            assert values == rows[: len(values)]
