"""What `data=` may be, in which order it is read, and what is said when nothing is there."""

from __future__ import annotations

import pytest

from alignkit.data.reading import places as sources
from alignkit.data.reading.places import generators, locate, read
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


def test_known_suffixes_are_those_that_have_a_reader():
    assert sources.KNOWN == ".jsonl, .ndjson, .json, .csv, .tsv, .txt, .md, .parquet"


def test_shipped_data_recipes_set_known_keys_and_lead_somewhere(here):
    import dataclasses
    from pathlib import Path

    import yaml

    from alignkit.config.sections import Data

    files = sorted((Path(__file__).parents[2] / "recipes" / "data").glob("*.yaml"))
    assert len(files) > 2
    for file in files:
        values = yaml.safe_load(file.read_text())
        assert set(values) <= {field.name for field in dataclasses.fields(Data)}, file.name
        assert locate(values["name"]).kind in ("hub", "generated")
        assert file.read_text().startswith("# ")
