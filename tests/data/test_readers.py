"""Files of every kind become the same rows, whatever the size of the parts they are read in."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
from pathlib import Path

import pyarrow as arrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet

from alignkit.data.reading import readers
from alignkit.data.reading.json_lines import BOM
from alignkit.data.reading.parts import files_of, parts, read, read_part
from alignkit.data.reading.places import locate
from alignkit.data.rows import Row, Unreadable
from alignkit.errors import Fault, RequestError

ROWS = [{"question": "was ist größer?", "answer": "a, b"}, {"question": "zwei\nZeilen", "answer": "🙂"}]
NAMES = ("a.jsonl", "b.json", "c.csv", "d.tsv", "e.parquet", "f.arrow", "g.feather", "h.ndjson")
PACKED = tuple(
    name + packing
    for name in NAMES
    if not name.endswith(("parquet", "arrow", "feather"))
    for packing in (".gz", ".zst")
)


def write(path: Path, rows: list[dict]) -> None:
    """Rows as the kind of file that the name asks for."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    plain = path.with_name(f"plain-{name}")
    if name.endswith((".jsonl", ".ndjson")):
        plain.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif name.endswith(".json"):
        plain.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    elif name.endswith(("csv", "tsv")):
        with plain.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if name.endswith("csv") else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        table = arrow.Table.from_pylist(rows)
        if name.endswith("parquet"):
            parquet.write_table(table, plain, row_group_size=7)
        else:  # datasets writes .arrow as a stream, others write a file
            new = arrow.ipc.new_stream if name.endswith("arrow") else arrow.ipc.new_file
            with new(plain, table.schema) as writer:
                writer.write(table)
    data = plain.read_bytes()
    plain.unlink()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = arrow.compress(data, "zstd", asbytes=True)
    path.write_bytes(data)


def rows_of(path):
    return [row.values for row in read(locate(str(path)))]


@pytest.mark.parametrize("name", [*NAMES, *PACKED])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    write(tmp_path / name, ROWS)
    assert rows_of(tmp_path / name) == ROWS
    first, second = read(locate(str(tmp_path / name)))
    assert first.where.startswith(str(tmp_path / name))
    assert second.where[len(str(tmp_path / name)) :].split()[0] in ("line", "row")
    assert first.where != second.where


def test_a_directory_reads_all_of_them(tmp_path):
    for name in (*NAMES, *PACKED):
        write(tmp_path / name, ROWS)
    assert rows_of(tmp_path) == ROWS * (len(NAMES) + len(PACKED))


@pytest.mark.parametrize("name", [*NAMES, *PACKED])
@pytest.mark.parametrize("block", [1, 100, 1000])
def test_parts_of_any_size_say_the_same_in_the_same_order(tmp_path, name, block):
    rows = [{"question": f"größe {n} " + "x" * (n % 50), "answer": str(n)} for n in range(100)]
    write(tmp_path / name, rows)
    place = locate(str(tmp_path / name))
    expected = list(read(place))
    assert [row.values for row in expected] == rows
    found = list(parts(place, block=block))
    assert len(found) > 1
    # A part goes to another process.
    assert [row for part in found for row in read_part(pickle.loads(pickle.dumps(part)))] == expected
    assert all(part.size < block + 3000 for part in found)


def test_parts_are_made_when_they_are_asked_for(tmp_path):
    file = tmp_path / "a.jsonl"
    write(file, ROWS * 5000)
    made = parts(locate(str(file)), block=100)
    assert [row.values for row in read_part(next(made))] == ROWS[:1]
    file.write_bytes(file.read_bytes()[:150])
    assert len(list(made)) < 3000


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.zst", "a.parquet", "a.arrow"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    import tracemalloc

    write(tmp_path / name, [{"question": f"{n} " * 100, "answer": "x" * 500} for n in range(8_000)])  # about 8 MB
    next(parts(locate(str(tmp_path / name)), block=100_000)).rows()  # imports
    tracemalloc.start()
    rows = sum(1 for part in parts(locate(str(tmp_path / name)), block=100_000) for _ in read_part(part))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 8_000
    assert peak < 2_000_000


def test_a_file_that_shrinks_between_cutting_and_reading_is_told(tmp_path):
    file = tmp_path / "a.jsonl"
    write(file, ROWS)
    part = next(parts(locate(str(file))))
    file.write_bytes(b"")
    with pytest.raises(RequestError, match="became shorter while it was read"):
        list(read_part(part))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=8),
    ascii_only=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\n\n", " \n"]),
    block=st.integers(1, 200),
)
def test_any_json_comes_back_from_lines_and_from_an_array(tmp_path, rows, ascii_only, end, block):
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    (tmp_path / "a.jsonl").write_text(end.join(lines), encoding="utf-8", newline="")
    (tmp_path / "a.json").write_text(f"[{f',{end}'.join(lines)}]", encoding="utf-8", newline="")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    for name in ("a.jsonl", "a.json", "a.jsonl.gz"):
        found = [row for part in parts(locate(str(tmp_path / name)), block=block) for row in read_part(part)]
        assert [row.values for row in found] == rows, name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries({name: st.text(st.characters(exclude_characters="\0", codec="utf-8")) for name in "ab"}),
        min_size=1,
        max_size=6,
    )
)
def test_any_text_comes_back_from_a_table(tmp_path, rows):
    for name in ("a.csv", "a.tsv"):
        write(tmp_path / name, rows)
        assert rows_of(tmp_path / name) == rows


def test_byte_order_mark_line_ends_and_blank_lines_do_no_harm(tmp_path):
    lines = [json.dumps(row).encode() for row in ROWS]
    file = tmp_path / "a.jsonl"
    file.write_bytes(BOM + lines[0] + b"\r\n\r\n" + BOM + lines[1] + b"\r\n")  # the second one: files put end to end
    assert rows_of(file) == ROWS
    assert [row.where for row in read(locate(str(file)))] == [f"{file} line 1", f"{file} line 3"]
    (tmp_path / "b.csv").write_bytes(BOM + b'question,answer\r\n"a\r\nb",c\r\n\r\nd,e\r\n')
    assert rows_of(tmp_path / "b.csv") == [{"question": "a\r\nb", "answer": "c"}, {"question": "d", "answer": "e"}]
    assert [row.where for row in read(locate(str(tmp_path / "b.csv")))][1].endswith("b.csv line 5")
    (tmp_path / "c.json").write_bytes(BOM + b"[" + b",\r\n".join(lines) + b"]\r\n")
    assert rows_of(tmp_path / "c.json") == ROWS


def test_old_line_ends_of_a_table(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"question,answer\ra,b\rc,d\r")
    assert rows_of(tmp_path / "a.csv") == [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]


def test_text_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(BOM + "ä\r\nb".encode())
    assert rows_of(tmp_path / "a.txt") == [{"text": "ä\nb"}]
    (tmp_path / "b.md.gz").write_bytes(gzip.compress("# ö".encode()))
    assert rows_of(tmp_path / "b.md.gz") == [{"text": "# ö"}]
    (tmp_path / "c.txt").write_bytes(b" \n")
    assert rows_of(tmp_path / "c.txt") == []
    assert [row.where for row in read(locate(f"{tmp_path}/*.txt"))] == [str(tmp_path / "a.txt")]


def test_a_json_file_of_lines_is_read_in_ranges(tmp_path):
    (tmp_path / "a.json").write_text("\n".join(json.dumps(row) for row in ROWS * 50))
    found = list(parts(locate(str(tmp_path / "a.json")), block=1000))
    assert type(found[0]).__name__ == "LineRange"
    assert [row.values for part in found for row in read_part(part)] == ROWS * 50


def test_several_gzip_or_zstd_streams_end_to_end_are_one_file(tmp_path):
    line = json.dumps(ROWS[0]).encode() + b"\n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line) * 3)
    (tmp_path / "a.jsonl.zst").write_bytes(arrow.compress(line, "zstd", asbytes=True) * 3)
    assert rows_of(tmp_path / "a.jsonl.gz") == rows_of(tmp_path / "a.jsonl.zst") == ROWS[:1] * 3


def test_nested_columns_null_and_not_a_number(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]
    table = arrow.table({"messages": [turns], "text": arrow.array([None], arrow.string()), "score": [float("nan")]})
    parquet.write_table(table, tmp_path / "a.parquet")
    (row,) = rows_of(tmp_path / "a.parquet")
    assert row["messages"] == [turns[0], {"role": "assistant"}]  # what an object lacks is null in Arrow
    assert row["text"] is None
    assert row["score"] != row["score"]


def test_objects_of_a_parquet_column_keep_only_their_own_keys(tmp_path):
    """Arrow gives every object of a column the keys of all others: calls of two tools, each with its arguments."""
    calls = [{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "add", "arguments": {"a": 1, "b": [2, None]}}]
    rows = [{"messages": [{"role": "assistant", "tool_calls": [call]}], "tools": [call], "id": None} for call in calls]
    for name, save in (("a.parquet", parquet.write_table), ("a.arrow", feather.write_feather)):
        save(arrow.Table.from_pylist(rows), str(tmp_path / name))
        assert rows_of(tmp_path / name) == rows


def test_a_dictionary_of_words_and_slices_of_a_batch(tmp_path):
    words = arrow.array(["rot", "blau", "rot"] * 400).dictionary_encode()
    table = arrow.table({"text": words})
    with arrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write(table)
    found = list(parts(locate(str(tmp_path / "a.arrow")), block=500))
    assert len(found) > 5
    assert [r.values["text"] for part in found for r in read_part(part)] == ["rot", "blau", "rot"] * 400
    assert max(len(pickle.dumps(part)) for part in found) < 3000  # a slice does not carry the batch it was cut from


def test_what_save_to_disk_wrote(tmp_path):
    import datasets

    train, test = datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[:1])
    train.save_to_disk(tmp_path / "one")
    assert rows_of(tmp_path / "one") == ROWS
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "two")
    place = locate(str(tmp_path / "two"))
    assert len(place.files) == 2
    assert [row.values for row in read(place, split="test")] == ROWS[:1]
    assert [row.values for row in read(place)] == ROWS
    with pytest.raises(RequestError, match=r"has no split `dev`\. There are: train, test\."):
        files_of(place, "dev")
    place.files[0].unlink()
    with pytest.raises(RequestError, match=r"is missing, and .*state\.json names it"):
        locate(str(tmp_path / "two"))


def test_a_part_of_texts_holds_many_small_files(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text(f"text {number}")
    found = list(parts(locate(str(tmp_path)), block=100))
    assert 1 < len(found) < 10
    assert [row.values["text"] for part in found for row in read_part(part)] == [f"text {n}" for n in range(30)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz", "a.csv.zst"])
def test_a_limit_reads_whole_rows_only(tmp_path, name):
    rows = [{"text": f"größe {n}"} for n in range(2000)]
    file = tmp_path / name
    if name == "a.txt":
        file.write_text("ö" * 9000, encoding="utf-8")
    else:
        write(file, rows)
    for limit in range(5000, 5040):  # every place within a row and within a character
        found = list(readers.READERS[file.suffix](file, name, limit))
        assert not [row for row in found if isinstance(row, Fault)]
        values = [row.values for row in found if isinstance(row, Row)]
        if name == "a.txt":
            assert len(values[0]["text"]) == limit // 2
        else:
            assert 50 < len(values) < 1000
            assert values == rows[: len(values)]
    assert readers.shows_all(file, 5000) == (name == "a.txt")


def test_a_limit_and_a_columnar_file(tmp_path):
    for name in ("a.parquet", "a.arrow"):
        write(tmp_path / name, ROWS)
        assert len(list(readers.beginning(tmp_path / name, name, 1_000_000))) == 2
        assert list(readers.beginning(tmp_path / name, name, 10)) == []
        (tmp_path / name).write_bytes(b"PAR1 and no more")
        (found,) = readers.beginning(tmp_path / name, name, 10)
        assert isinstance(found, Unreadable)
