"""What `data=` may be, in which order it is read, and what is said when nothing is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.data.reading import places as sources
from alignkit.data.reading.parts import parts, read, read_part
from alignkit.data.reading.places import generators, locate
from alignkit.errors import RequestError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fault(name: str) -> str:
    with pytest.raises(RequestError) as caught:
        locate(name)
    return str(caught.value)


def test_missing_file_names_its_neighbours(here):
    (here / "train.jsonl").touch()
    assert "there is no trian.jsonl. Did you mean train.jsonl?" in fault("trian.jsonl")
    assert "Did you mean train.jsonl?" in fault("Train.json")
    assert "holds train.jsonl" in fault("./other.csv")
    assert "directory nowhere does not exist" in fault("nowhere/a.jsonl")


def test_unknown_suffix_and_empty_directory(here):
    (here / "a.docx").touch()
    (here / "d").mkdir()
    assert "kind that is not read here" in fault("./a.docx")
    assert "has no file to read: it is empty" in fault("./d")


def test_directory_reads_tables_and_passes_over_notes(here):
    for name in ("b.jsonl", "a.jsonl", "README.md", "picture.png", ".hidden.jsonl", "deep/c.json"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    place = locate(".")
    assert [file.name for file in place.files] == ["a.jsonl", "b.jsonl", "c.json"]
    assert {file.name for file in place.passed_over} == {"README.md", "picture.png"}


def test_directory_of_texts_is_read(here):
    (here / "a.txt").touch()
    (here / "b.md").touch()
    assert [file.name for file in locate("./").files] == ["a.txt", "b.md"]


def test_hub_names_and_names_that_could_be_two_things(here):
    assert locate("owner/name").kind == "hub"
    assert locate("hub:name").kind == "hub"
    (here / "owner" / "name").mkdir(parents=True)
    (here / "owner" / "name" / "a.jsonl").touch()
    said = fault("owner/name")
    assert "./owner/name" in said
    assert "hub:owner/name" in said
    assert locate("./owner/name").kind == "files"
    assert "stands here too" in fault("hub:owner/name")


def test_bare_names_are_not_sent_to_the_hub(here):
    assert "Did you mean generated:tickets?" in fault("ticket")
    assert "hub:imdb" in fault("imdb")
    (here / "tickets").mkdir()
    assert "./tickets" in fault("tickets")


def test_only_generators_of_the_package_are_imported(here):
    assert "tickets" in generators()
    for name in ("os", "../tickets", "tickets.draw", "", "check"):
        assert "there is no generator" in fault(f"generated:{name}")


def test_stdin_is_refused_with_a_way_out():
    assert "Write them to a file first" in fault("-")


def test_hub_rows_come_through_the_datasets_library(monkeypatch):
    import datasets

    asked = {}

    def load(name, config, **options):
        asked.update(options, name=name, config=config)
        return datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = list(read(locate("owner/name"), split="test", config="en", revision="v1"))
    assert asked == {"name": "owner/name", "config": "en", "split": "test", "revision": "v1"}
    assert [row.values for row in rows] == [{"text": "a"}, {"text": "b"}]
    assert rows[1].where == "owner/name test row 2"


def test_a_hub_data_set_is_cut_into_parts_and_keeps_its_order(monkeypatch):
    import pickle

    import datasets

    rows = [{"messages": [{"role": "user", "content": f"frage {n}"}], "n": n} for n in range(2500)]
    mapped = datasets.Dataset.from_list(rows).select(range(2499, -1, -1))  # an order that is not the one on disk
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: mapped)
    found = list(parts(locate("owner/name"), block=20_000))
    assert len(found) > 3
    read_back = [row for part in found for row in read_part(pickle.loads(pickle.dumps(part)))]
    assert [row.values for row in read_back] == rows[::-1]
    assert read_back[-1].where == "owner/name train row 2500"


def test_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    import datasets

    def load(name, config, **options):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'owner/name' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(RequestError, match=r"owner/name \(split train\) cannot be read: Dataset .* doesn't exist"):
        list(read(locate("owner/name")))


def test_generated_rows_are_the_same_every_time_and_differ_by_split():
    def texts(split):
        return [row.values["messages"][0]["content"] for row in read(locate("generated:tickets"), split=split, rows=20)]

    assert texts("train") == texts("train")
    assert not set(texts("train")) & set(texts("heldout"))
    assert next(read(locate("generated:tickets"), rows=1)).where == "tickets train row 1"


def test_known_suffixes_are_those_that_are_read(here):
    *plain, last = sources.KNOWN.split("; ")[0].split(", ")
    for suffix in (*plain, last):
        (here / f"a{suffix}").touch()
        assert locate(f"a{suffix}").files[0].name == f"a{suffix}"
    for packed in (".jsonl.gz", ".CSV.ZST", ".md.gz"):
        (here / f"b{packed}").touch()
        assert locate(f"b{packed}").files[0].name == f"b{packed}"
    assert "all but the last three also with .gz or .zst" in sources.KNOWN
    assert [suffix for suffix in (*plain, last) if not sources.is_readable(Path(f"a{suffix}.gz"))] == [*plain, last][
        -3:
    ]


def test_kinds_that_people_have_are_refused_with_a_way_out(here):
    for name, instead in (
        ("a.xlsx", "Save the sheet as CSV"),
        ("a.zip", "Unpack it first"),
        ("a.pdf", "Save it as plain text"),
        ("a.gz", "Give it a name such as a.jsonl.gz"),
        ("a.parquet.gz", "Unpack it"),
    ):
        (here / name).touch()
        assert instead in fault(f"./{name}")


def test_patterns(here):
    for name in ("data/a.jsonl", "data/b.csv.gz", "data/deep/c.jsonl", "data/README.md", "data/.d.jsonl", "data/e.png"):
        (here / name).parent.mkdir(exist_ok=True, parents=True)
        (here / name).touch()
    assert [str(file) for file in locate("data/*.jsonl").files] == ["data/a.jsonl"]
    assert [str(file) for file in locate("data/**/*.jsonl").files] == ["data/a.jsonl", "data/deep/c.jsonl"]
    assert [file.name for file in locate("./data/[ab].*").files] == ["a.jsonl", "b.csv.gz"]
    assert [file.name for file in locate("data/*.md").files] == ["README.md"]
    every = locate(f"{here}/data/*")
    assert [file.name for file in every.files] == ["a.jsonl", "b.csv.gz"]
    assert {file.name for file in every.passed_over} == {"README.md", "e.png"}
    assert "no file fits the pattern data/*.parquet. data/ holds README.md, a.jsonl, b.csv.gz, deep, e.png" in fault(
        "data/*.parquet"
    )
    assert "Its directory nowhere does not exist" in fault("nowhere/*.jsonl")
    assert "no file that data/*.png fits is read here: e.png" in fault("data/*.png")


def test_a_file_whose_name_looks_like_a_pattern(here):
    (here / "rows[1].jsonl").touch()
    (here / "rows1.jsonl").touch()
    assert [file.name for file in locate("rows[1].jsonl").files] == ["rows[1].jsonl"]


def test_what_libraries_write_beside_the_rows_is_no_data(here):
    for name in ("a.parquet", "dataset_infos.json", "a.jsonl.skipped.jsonl"):
        (here / name).touch()
    place = locate("./")
    assert [file.name for file in place.files] == ["a.parquet"]
    assert len(place.passed_over) == 2


def test_size_of_a_place(here):
    (here / "a.jsonl").write_bytes(b"12345")
    (here / "b.jsonl").write_bytes(b"123")
    assert locate("./").size == 8
    assert locate("owner/name").size is None


def test_shipped_data_recipes_set_known_keys_and_lead_somewhere(here):
    import dataclasses

    import yaml

    from alignkit.config.sections import Data

    files = sorted((Path(__file__).parents[2] / "recipes" / "data").glob("*.yaml"))
    assert len(files) > 2
    for file in files:
        values = yaml.safe_load(file.read_text())
        assert set(values) <= {field.name for field in dataclasses.fields(Data)}, file.name
        assert locate(values["name"]).kind in ("hub", "generated")
        assert file.read_text().startswith("# ")


def test_looking_for_data_imports_nothing_heavy():
    import subprocess
    import sys

    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)"
    code = f"import sys, alignkit.data.reading.parts; print({heavy})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
