"""A LoRA adapter's directory, read without PEFT and without torch: which modules it changes, and how.

Letters: r rank, in and out the sides of a layer, V tokens, D features, s = alpha/r (rsLoRA: alpha/sqrt(r)).
Hu et al. 2021, "LoRA", section 4.1: W + s·B·A with A (r, in) and B (out, r). Kalajdzievski 2023 for rsLoRA.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.errors import Fault, RequestError
from alignkit.models.locating import Source, read_origin
from alignkit.models.origin import require_same_base
from alignkit.models.rope import RopePlan
from alignkit.models.rope.carried import own_plan
from alignkit.tensors.checkpoint import ADAPTER_WEIGHTS, Checkpoint

Matrix = NDArray[np.float32]

CONFIG = "adapter_config.json"
ROOT = "base_model.model."
"""What PEFT puts before the names of the base's modules."""
ROWS = ".token_adapter.trainable_tokens_delta"
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>A|B|embedding_A|embedding_B)(?:\.weight)?$")

_OTHER_SUMS = {
    "layer_replication": "repeats layers of its base",
    "target_parameters": "changes single parameters (target_parameters), not layers",
    "alora_invocation_tokens": "is an activated LoRA, which counts from certain tokens on only",
    "use_qalora": "is a QALoRA",
    "use_bdlora": "is a block-diagonal LoRA",
    "arrow_config": "routes between adapters (arrow)",
    "monteclora_config": "is a MonteCLoRA",
    "kasa_config": "is a KaSA adapter",
}
"""Options of PEFT's LoRA under which a layer is not W + s·B·A, and what to say of them."""
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "true", "True")
"""`init_lora_weights` that leave the base as it is; PiSSA, OLoRA, LoftQ, CorDA and LoRA-GA move it."""


@dataclass
class LowRank:
    """The factors of one module; the numbers stay in the file until they are asked for."""

    module: str
    """The module's full name in the base: `model.layers.0.self_attn.q_proj`."""
    a: str
    b: str
    """Keys of the factors in the file."""
    scale: float
    rank: int
    embedding: bool = False
    """A is (r, V) and B (D, r), for a lookup; else A (r, in) and B (out, r)."""
    bias: str | None = None
    """Key of a bias of B, which counts s times."""
    magnitude: str | None = None
    """Key of DoRA's magnitudes (out,) (Liu et al. 2024, equation 5)."""

    @property
    def alpha(self) -> float:
        """alpha of a plain LoRA of this rank and scale."""
        return self.scale * self.rank


@dataclass
class Adapter:
    """One adapter directory: a small config, and tensors that are read when they are needed."""

    path: Path
    config: dict[str, Any]
    file: Checkpoint
    low_rank: dict[str, LowRank] = field(default_factory=dict)
    """Module to its factors."""
    whole: dict[str, str] = field(default_factory=dict)
    """Name of a tensor of the base to the key of what stands in its place: modules_to_save, biases, embeddings."""
    rows: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    """Module (embedding or head) to the ids of its trained rows and the key of the rows (k, D)."""
    rope: RopePlan | None = None
    """How the positions of its base are stretched."""
    vocabulary: tuple[int, int] | None = None
    """Rows that the base had while the adapter learned, and how many of the first gave the mean for new ones."""
    quantized: str | None = None
    """How the base was quantized while the adapter learned."""

    @classmethod
    def open(cls, source: Source, *, where: str = "model.name") -> Adapter:
        """Read the config and the header of an adapter. `source` is an adapter's, from models.locating.

        Raises RequestError with every fault: another kind of PEFT than LoRA by name, a LoRA whose sum is another one,
        factors that are missing or do not fit each other, a GGUF base that is not the one it was trained on.
        """
        assert source.path is not None
        require_same_base(source)
        file = Checkpoint.open(source.path, where=where, weights=ADAPTER_WEIGHTS, config=CONFIG)
        found = cls(source.path, file.config, file)
        if faults := found._kind_faults(where):
            raise RequestError(faults)
        origin = read_origin(source.path, where) or {}
        noted, quantization = origin.get("vocabulary"), origin.get("quantization")
        if isinstance(noted, dict):
            found.vocabulary = int(noted["rows"]), int(noted["mean_of"])
        if isinstance(quantization, dict) and quantization.get("kind", "none") != "none":
            found.quantized = str(quantization["kind"])
        found.rope = own_plan(source.path, where)
        if faults := found._sort_tensors(where):
            raise RequestError(faults)
        return found

    def read(self, key: str) -> Matrix:
        """One tensor of the file as float32, in its shape."""
        info = self.file.tensors[key]
        return self.file.read(key, 0, info.count).reshape(info.shape)

    def is_saved(self, module: str) -> bool:
        """Whether `module` is one that was trained as a copy of its own (modules_to_save)."""
        names = self.config.get("modules_to_save") or []
        return any(module == name or module.endswith("." + name) for name in names)

    @property
    def is_dora(self) -> bool:
        return any(part.magnitude for part in self.low_rank.values())

    def _kind_faults(self, where: str) -> list[Fault]:
        kind = self.config.get("peft_type")
        if kind != "LORA":
            return [self._fault(where, f"is an adapter of kind {kind}, and only LoRA and DoRA can be added to weights")]
        faults = [self._fault(where, what) for key, what in _OTHER_SUMS.items() if self.config.get(key)]
        start = self.config.get("init_lora_weights", True)
        if start not in _PLAIN_STARTS:
            what = f"started inside its base ({start}) and was saved without being converted"
            faults.append(self._fault(where, what, "Save it with path_initial_model_for_weight_conversion."))
        return faults

    def _fault(self, where: str, what: str, instead: str = "Merge it with PEFT first, and give the result.") -> Fault:
        return Fault(where=where, what=f"{self.path} {what}", instead=instead)

    def _sort_tensors(self, where: str) -> list[Fault]:
        """Fill low_rank, whole and rows from the keys of the file."""
        again = "Save or download it again."
        sides: dict[str, dict[str, str]] = {}
        extras: dict[str, str] = {}
        faults = []
        for key in self.file.tensors:
            name = key.removeprefix(ROOT)
            if found := _FACTOR.fullmatch(name):
                sides.setdefault(found["module"], {})[found["side"]] = key
            elif re.search(r"\.lora_(B\.bias|magnitude_vector(\.weight)?)$", name):
                extras[name.removesuffix(".weight")] = key
            elif ".lora_" in name:
                faults.append(self._fault(where, f"holds {key}, which is no part of a LoRA that is known here"))
            elif not name.endswith(ROWS):
                self.whole[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = key
        for module, found_sides in sides.items():
            embedding = "embedding_A" in found_sides or "embedding_B" in found_sides
            a = found_sides.get("embedding_A" if embedding else "A")
            b = found_sides.get("embedding_B" if embedding else "B")
            if a is None or b is None:
                faults.append(self._fault(where, f"holds one of the two factors of {module}", again))
                continue
            shape_a, shape_b = self.file.shape(a), self.file.shape(b)
            if len(shape_a) != 2 or len(shape_b) != 2:
                faults.append(self._fault(where, f"changes {module}, a convolution"))
                continue
            if shape_a[0] != shape_b[1] or not shape_a[0]:
                faults.append(self._fault(where, f"has factors {shape_a} and {shape_b} for {module}", again))
                continue
            self.low_rank[module] = LowRank(
                module,
                a,
                b,
                self._scale(module, shape_a[0]),
                shape_a[0],
                embedding,
                extras.pop(f"{module}.lora_B.bias", None),
                extras.pop(f"{module}.lora_magnitude_vector", None),
            )
        faults += [self._fault(where, f"holds {key} without its factors", again) for key in extras.values()]
        if self.config.get("use_dora"):
            for part in self.low_rank.values():
                if part.magnitude is None:
                    faults.append(self._fault(where, f"is a DoRA without the magnitudes of {part.module}", again))
        return faults + self._sort_rows(where, again)

    def _scale(self, module: str, rank: int) -> float:
        """alpha/r of one module: the first pattern that matches the end of its name holds, as in PEFT."""
        alpha = float(self.config.get("lora_alpha", rank))
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                alpha = float(value)
                break
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _sort_rows(self, where: str, again: str) -> list[Fault]:
        wanted = self.config.get("trainable_token_indices") or {}
        faults = []
        for key in self.file.tensors:
            name = key.removeprefix(ROOT)
            if not name.endswith(ROWS):
                continue
            module = name.removesuffix(ROWS)
            ids = wanted
            if isinstance(wanted, dict):  # name of a module or its end, to ids
                ids = next((ids for end, ids in wanted.items() if module == end or module.endswith("." + end)), [])
            rows = self.file.shape(key)[0]
            if len(ids) != rows:
                faults.append(self._fault(where, f"holds {rows} rows of {module} and names {len(ids)} tokens", again))
            self.rows[module] = tuple(int(token) for token in ids), key
        return faults


def stack_of(source: Source) -> tuple[Source, list[Source]]:
    """The model under an adapter, and the adapters on it from the lowest to the highest (none for a plain model)."""
    adapters: list[Source] = []
    while source.adapter:
        adapters.insert(0, source)
        assert source.parent is not None
        source = source.parent
    return source, adapters
