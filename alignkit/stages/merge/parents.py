"""The models that go in: from a section of the recipe to tensors that can be read, and their files beside."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit.config.sections import Model
from alignkit.errors import Fault, RequestError
from alignkit.models.locating import Source, locate
from alignkit.models.origin import require_same_base
from alignkit.stages.merge.adapter_reading import stack_of
from alignkit.stages.merge.adapters import TensorModel, open_adapted
from alignkit.stages.merge.architecture import Layers, find_layers, output_head, ties, token_embedding
from alignkit.stages.merge.recipe import ADAPTER_METHODS, MergeOptions
from alignkit.tensors.checkpoint import Checkpoint


@dataclass
class Parent:
    """One model of a merge."""

    where: str
    """Key of its section: `merge.models[0]`, `merge.base`."""
    name: str
    """As the person wrote it."""
    source: Source
    files: Path
    """Directory with the tokenizer; of an adapter without one, its base's."""
    weights: TensorModel
    names: dict[str, str] = field(default_factory=dict)
    """What a tensor is called in all parents (the leading one's names) to what it is called here."""

    def __post_init__(self) -> None:
        if not self.names:
            self.names = {name: name for name in self.weights.tensors}

    @property
    def config(self) -> dict[str, Any]:
        return self.weights.config

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by its common name."""
        return {name: tuple(self.weights.tensors[own].shape) for name, own in self.names.items()}

    def dtype(self, name: str) -> str:
        """Stored dtype of a tensor by its common name."""
        return self.weights.tensors[self.names[name]].dtype

    @property
    def layers(self) -> Layers:
        return find_layers(self.names, self.config)

    @property
    def embedding(self) -> str | None:
        """Common name of the token embedding."""
        return token_embedding(self.shapes, self.config)

    @property
    def head(self) -> str | None:
        """Common name of the output layer; None where the checkpoint has none."""
        return output_head(self.shapes, self.embedding)

    @property
    def tied(self) -> bool:
        """Whether embedding and output layer are one matrix."""
        return ties(self.config, self.head)


@dataclass(frozen=True)
class Parents:
    """All models of a merge."""

    models: list[Parent]
    base: Parent | None

    @property
    def leading(self) -> Parent:
        """Whose names, config, tokenizer and number formats the result has: the base, else the first model."""
        return self.base if self.base is not None else self.models[0]

    @property
    def all(self) -> list[Parent]:
        """The base, where there is one, and the models."""
        return [*([self.base] if self.base is not None else []), *self.models]


def sections(options: MergeOptions) -> dict[str, Model]:
    """Key of each model section to the section."""
    found: dict[str, Model] = {f"merge.models[{place}]": model for place, model in enumerate(options.models)}
    if options.base is not None:
        found["merge.base"] = options.base
    return found


def sources(options: MergeOptions) -> tuple[dict[str, Source], list[Fault]]:
    """Where each model lies. Faults for those that lie nowhere."""
    found: dict[str, Source] = {}
    faults: list[Fault] = []
    for where, section in sections(options).items():
        try:
            found[where] = locate(section)
        except RequestError as error:
            faults += [_under(where, fault) for fault in error.faults]
    return found, faults


def gives_adapter(options: MergeOptions, found: dict[str, Source]) -> bool:
    """Whether the result is an adapter: asked for, or all models are adapters on one base and the method is theirs."""
    if options.into != "auto":
        return options.into == "adapter"
    if options.base is not None or options.method not in ADAPTER_METHODS:
        return False
    bases = {source.parent.place if source.parent is not None else "" for source in found.values()}
    return len(bases) == 1 and all(source.adapter for source in found.values())


def _under(where: str, fault: Fault) -> Fault:
    """A fault of a model section under the key that the section has here."""
    key = f"{where}{fault.where.removeprefix('model')}" if fault.where.startswith("model.") else fault.where
    return Fault(where=key, what=fault.what, instead=fault.instead)


def is_at_hand(source: Source) -> bool:
    """Whether its tensors can be read without a download or a conversion."""
    if source.adapter:
        return source.path is not None and source.parent is not None and is_at_hand(source.parent)
    return directory_of(source) is not None


def directory_of(source: Source) -> Path | None:
    """The directory of safetensors of a model that is at hand; None for a GGUF file and what is not downloaded."""
    if source.kind == "directory":
        return source.path
    if source.kind == "hub" and source.hub_name is not None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source.hub_name, "config.json", revision=source.revision or "main")
        if isinstance(found, str):
            place = Path(found).parent
            return place if any(place.glob("*.safetensors")) else None
    return None


def fetch(source: Source, where: str) -> Source:
    """The source as a directory on this machine: hub models are downloaded, GGUF files converted once, to a cache.

    Raises RequestError when the hub does not give it, RunError when a GGUF file cannot be converted.
    """
    from dataclasses import replace

    if source.adapter:
        assert source.parent is not None
        require_same_base(source)
        return replace(source, parent=fetch(source.parent, where))
    if source.kind == "gguf":
        from alignkit.models.gguf_cache import converted_directory

        assert source.path is not None
        return replace(source, kind="directory", path=converted_directory(source.path))
    place = directory_of(source)
    if place is None:
        from alignkit.models.hub import fetched

        found = fetched(source)
        if found.adapter:
            return fetch(found, where)
        place = _download(source, where)
    return replace(source, kind="directory", path=place)


def _download(source: Source, where: str) -> Path:
    from huggingface_hub import snapshot_download

    assert source.hub_name is not None
    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "README.md"]
    try:
        return Path(snapshot_download(source.hub_name, revision=source.revision, allow_patterns=patterns))
    except Exception as error:  # whatever the transport raises
        raise RequestError(
            Fault(
                where=f"{where}.name",
                what=f"{source.hub_name} cannot be fetched from the hub: {str(error).splitlines()[0]}",
                instead="Download it first (hf download), or give a path: ./DIRECTORY.",
            )
        ) from error


def open_parent(where: str, section: Model, source: Source) -> Parent:
    """Read the headers of a source that is at hand. Raises RequestError with every fault."""
    key = f"{where}.name"
    if source.adapter:
        base, stacked = stack_of(source)
        place = directory_of(base)
        assert place is not None, "sources are fetched before they are opened"
        folders = [one.path for one in reversed(stacked) if one.path is not None]
        files = next((folder for folder in folders if (folder / "tokenizer_config.json").exists()), place)
        adapted: TensorModel = open_adapted(source, where=key)
        return Parent(where, section.name, source, files, adapted)
    place = directory_of(source)
    assert place is not None, "sources are fetched before they are opened"
    return Parent(where, section.name, source, place, Checkpoint.open(place, where=key))
