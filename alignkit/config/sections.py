"""The sections that every stage shares: names, types, ranges and defaults.

These dataclasses are the schema: YAML carries values, never structure. Each field is followed by a
docstring that gives its unit, range and where the default comes from; `alignkit recipes copy` prints
them as comments. ``operational=True`` in a field's or section's metadata marks what does not decide the
weights and is therefore left out of a run's key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

OPERATIONAL: dict[str, Any] = {"operational": True}
BY_CONTENT: dict[str, Any] = {**OPERATIONAL, "by_content": True}
"""For names of inputs: the digest of what they name is in the key, so the spelling is not."""
OF_NAME: dict[str, Any] = {"of_name": True}
"""Marks what belongs to a section's `name`: whoever names another drops what was said of the old one."""


@dataclass(kw_only=True)
class Model:
    """Which weights a stage starts from, and how they are loaded."""

    name: str = field(metadata=BY_CONTENT)
    """A name from recipes/model/, a path (directory, GGUF file, earlier run), or a hub name. Short form: model=…"""
    installed_file: str | None = field(default=None, metadata=BY_CONTENT | OF_NAME)
    """`package/file` of an installed Python package that carries the weights; used instead of `name` when present."""
    revision: str | None = field(default=None, metadata=BY_CONTENT | OF_NAME)
    """Branch, tag or commit of a hub model; the commit it resolved to is recorded."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of the weights; auto takes bf16 where the device computes in it, else fp32."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel; auto takes flash attention when it is installed and a GPU is there, else sdpa."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off: such a model is refused."""
    allow_pickle: bool = False
    """Read `.bin`/`.pt` weights, which can run code when opened. Off: only safetensors and GGUF are read."""


@dataclass(kw_only=True)
class DataSource:
    """One source of a mixture. What is left out is taken from the data section."""

    group: ClassVar[str] = "data"
    """The folder of recipes/ whose names may stand for a source."""
    in_group_called: ClassVar[dict[str, str]] = {"rows": "limit"}
    """Keys of such a file that a source calls otherwise."""

    name: str = field(metadata=BY_CONTENT)
    """A path, a glob, a hub name, or `generated:NAME`."""
    weight: Annotated[float, Gt(0)] | None = None
    """Share of the mixture's rows, relative to the other weights. All sources have one, or none has; none: every row
    of every source is used."""
    repeat: Annotated[float, Gt(0)] = 1.0
    """How often each row stands in an epoch; with weights, how often it may at most. 2.5: twice, and half of the rows
    a third time."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use at most this many rows, chosen by a hash of their content, so that their order does not matter. A generator
    makes this many."""
    system: str | None = None
    """System prompt for conversations of this source that have none."""
    split: str | None = None
    """Split of a hub data set."""
    config: str | None = None
    """Configuration (subset) of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    format: str | None = None
    """As data.format."""
    columns: dict[str, str] = field(default_factory=dict)
    """As data.columns."""
    map: dict[str, str] = field(default_factory=dict)
    """As data.map."""


@dataclass(kw_only=True)
class Data:
    """Which rows a stage trains on, and how they become tokens."""

    in_place_of: ClassVar[dict[str, str]] = {"name": "sources"}
    """A required key that need not be set where another one is."""

    name: str = field(metadata=BY_CONTENT)
    """A name from recipes/data/, a path, a glob, a hub name, `generated:NAME`, or - for stdin. Short form: data=…"""
    sources: list[DataSource] = field(default_factory=list, metadata=OF_NAME)
    """A mixture, in place of `name`: several sources with weights, repeats and limits. Short form: data=[a,b]"""
    split: str = field(default="train", metadata=OF_NAME)
    """Split of a hub data set."""
    config: str | None = field(default=None, metadata=OF_NAME)
    """Configuration (subset) of a hub data set that has several."""
    revision: str | None = field(default=None, metadata=BY_CONTENT | OF_NAME)
    """Branch, tag or commit of a hub data set; the commit it resolved to decides the run's key."""
    format: str | None = field(default=None, metadata=OF_NAME)
    """How the columns are read (`alignkit data formats` lists the names); null: recognised from the columns."""
    columns: dict[str, str] = field(default_factory=dict, metadata=OF_NAME)
    """Our column names to those of the data: {prompt: question_text, completion: reply}."""
    map: dict[str, str] = field(default_factory=dict, metadata=OF_NAME)
    """Columns made from others: {prompt: "{title}\\n\\n{body}"}; {{ and }} stand for braces."""
    system: str | None = None
    """System prompt for conversations that have none."""
    template: str | None = None
    """Chat template to install on a model that has none, or in place of its own: chatml, llama3, … or a Jinja file;
    null: the model's own. Tokens that it needs and the model lacks are added and trained."""
    rows: Annotated[int, Ge(1)] | None = None
    """Use at most this many training rows (a generator makes this many); null: all."""
    max_length: Annotated[int, Ge(8)] = 1024
    """Longest row in tokens."""
    overlength: Literal["drop", "truncate", "split", "error"] = "drop"
    """What happens to a longer row, always counted and reported. truncate cuts the end of raw text and leaves out the
    earliest turns of a conversation, never its answer; split cuts raw text into pieces and loses nothing (rows of
    another kind in a mixture are dropped)."""
    overlength_limit: Annotated[float, Ge(0), Le(1)] = 0.1
    """Share of rows that may be dropped or truncated for their length before it is an error."""
    train_on: Literal["assistant", "last", "all"] = "assistant"
    """Whose tokens carry loss: every assistant turn, the last one only, or the whole row."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a row that cannot be read does: stop the run before it begins, or be left out, counted, and written to
    skipped.jsonl in the run's directory."""
    dedup: Literal["none", "exact", "near"] = "none"
    """Leave out rows that say the same as an earlier one: word for word, or nearly (MinHash). Held-out rows stay."""
    dedup_threshold: Annotated[float, Gt(0), Le(1)] = 0.8
    """Jaccard similarity of word 5-grams from which two rows are nearly the same."""
    packing: bool | Literal["best-fit"] = True
    """true: the rows of a micro-batch are laid end to end instead of padded; best-fit: rows are first put into blocks
    of at most max_length tokens, and batch.size counts blocks. Rows never see each other."""
    group_by_length: bool = False
    """Batch rows of similar length together (less padding where packing is off or not possible)."""
    holdout: Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)] = 0.05
    """Rows kept out of training for evaluation: a count, or a share below 1."""
    holdout_name: str | None = field(default=None, metadata=BY_CONTENT)
    """A data set of its own to evaluate on; `holdout` is then how many of its rows (a share: of them)."""
    holdout_split: str = "test"
    """Split of `holdout_name`, where that is a hub data set."""
    processes: Literal["auto"] | Annotated[int, Ge(1)] = field(default="auto", metadata=OPERATIONAL)
    """Processes that read and tokenise; auto: as many as there are cores, and one for small data."""

    def parts(self) -> list[DataSource]:
        """The sources that are read: those of the mixture, each with what it leaves out filled in, or the one named."""
        given = self.sources or [DataSource(name=self.name)]
        return [
            DataSource(
                name=source.name,
                weight=source.weight,
                repeat=source.repeat,
                limit=source.limit,
                system=source.system if source.system is not None else self.system,
                split=source.split if source.split is not None else self.split,
                config=source.config if source.config is not None else self.config,
                revision=source.revision if source.revision is not None else self.revision,
                format=source.format if source.format is not None else self.format,
                columns=source.columns or self.columns,
                map=source.map or self.map,
            )
            for source in given
        ]


@dataclass(kw_only=True)
class Adapter:
    """What is trained: everything (kind none) or a low-rank adapter on a frozen base."""

    kind: Literal["none", "lora", "dora"] = "none"
    """none: full fine-tuning; lora: Hu et al. 2021; dora: Liu et al. 2024."""
    rank: Annotated[int, Ge(1)] = 16
    """Rank r of the update B·A."""
    alpha: Annotated[float, Gt(0)] | None = None
    """Scale: the update counts alpha/r (alpha/sqrt(r) with rslora); null: 2·rank."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout on the adapter's input."""
    targets: str | list[str] = "all-linear"
    """`all-linear`, a list of module names, or one regular expression over full names."""
    layers: list[int] | None = None
    """Only these layer indices; null: all."""
    init: Literal["default", "gaussian", "orthogonal", "pissa", "olora", "loftq", "eva"] = "default"
    """Initialisation. pissa, olora and loftq change the base; the saved adapter is converted to fit the original."""
    rslora: bool = False
    """Scale by alpha/sqrt(r) (Kalajdzievski 2023)."""
    lr_ratio: Annotated[float, Gt(0)] = 1.0
    """LoRA+: learning rate of B over that of A (Hayou et al. 2024 suggest 16); 1: plain LoRA."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Module name pattern to rank, where it differs from `rank`."""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Module name pattern to alpha, where it differs from `alpha`."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules trained in full and saved beside the adapter (`embed_tokens`, `lm_head`)."""


@dataclass(kw_only=True)
class Quantization:
    """Frozen weights in 4 or 8 bits through bitsandbytes. A memory feature, not a speed feature."""

    kind: Literal["none", "nf4", "fp4", "int8"] = "none"
    """none, or the number format of the frozen linear layers."""
    double: bool = True
    """Quantize the quantization constants too (Dettmers et al. 2023, section 3); 4 bit only."""
    compute_dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Format of the matrix products; auto: as model.dtype."""


@dataclass(kw_only=True)
class Optimizer:
    """The update rule."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"] = "adamw"
    """adamw_8bit and paged_adamw_8bit keep their state in 8 bits (bitsandbytes)."""
    learning_rate: Annotated[float, Gt(0)] = 2e-4
    """Peak learning rate. LoRA wants about ten times what full fine-tuning wants."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled weight decay; not applied to biases and norms."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the second moment."""
    epsilon: Annotated[float, Gt(0)] = 1e-8
    """Term in the denominator."""
    max_grad_norm: Annotated[float, Ge(0)] = 1.0
    """Gradients are scaled down to this global norm; 0: no clipping."""


@dataclass(kw_only=True)
class Schedule:
    """How long, and how the learning rate moves."""

    epochs: Annotated[float, Gt(0)] = 1.0
    """Passes over the training rows; ignored when max_steps is set."""
    max_steps: Annotated[int, Ge(1)] | None = None
    """Optimizer steps; null: as many as the epochs need."""
    warmup: Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)] = 0.03
    """Linear warm-up: steps, or a share of all steps below 1."""
    decay: Literal["linear", "cosine", "constant"] = "cosine"
    """From the peak down to 0 at the last step, or not at all."""
    patience: Annotated[int, Ge(1)] | None = None
    """Early stopping: stop after this many checks of the held-out loss without a better one, and keep the best."""
    patience_every: Annotated[int, Ge(1)] = 50
    """Optimizer steps between those checks."""


@dataclass(kw_only=True)
class Batch:
    """How many rows one optimizer step sees."""

    size: Annotated[int, Ge(1)] = 8
    """Rows per optimizer step, over all devices and accumulation steps, packed or not."""
    micro: Annotated[int, Ge(1)] | Literal["auto"] = field(default="auto", metadata=OPERATIONAL)
    """Rows per forward pass; must divide `size`. auto: as many as the device's memory takes."""


@dataclass(kw_only=True)
class Memory:
    """Levers that trade time for memory and leave the result as it is."""

    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Recompute activations in the backward pass; auto: only when they would not fit."""


@dataclass(kw_only=True)
class Evaluation:
    """The same held-out rows before and after training: did it work?"""

    rows: Annotated[int, Ge(0)] = 100
    """Held-out rows to score at most; 0: no evaluation."""
    exact_match: bool | Literal["auto"] = "auto"
    """Generate an answer for each row and compare; auto: where the data has a checkable answer."""
    samples: Annotated[int, Ge(0)] = 3
    """Answers shown side by side, before and after."""
    max_new_tokens: Annotated[int, Ge(1)] = 128
    """Longest generated answer in tokens."""
    batch: Annotated[int, Ge(1)] = 25
    """Rows generated at once."""
    every: Annotated[int, Ge(1)] | None = None
    """Also score the held-out loss every so many steps while training."""

    def decides(self) -> dict[str, Any]:
        """The values that change what an evaluation finds; the others change only how it is done."""
        return {name: getattr(self, name) for name in ("rows", "exact_match", "samples", "max_new_tokens")}


@dataclass(kw_only=True)
class Checkpoint:
    """What survives a crash."""

    every: Annotated[int, Ge(1)] = 50
    """Optimizer steps between checkpoints."""
    keep: Annotated[int, Ge(1)] = 2
    """Newest checkpoints kept."""


@dataclass(kw_only=True)
class Run:
    """Where runs live."""

    root: str = "runs"
    """Directory that holds the run directories."""


@dataclass(kw_only=True)
class Launch:
    """On how many processes of this machine a stage runs, and on which engine. The result is the same on all."""

    engine: Literal["local", "ddp", "fsdp", "deepspeed"] = "local"
    """local: one process. ddp: a whole model in each. fsdp: weights, gradients and optimizer states are split over
    the processes (FSDP2). deepspeed: the same by ZeRO."""
    processes: Annotated[int, Ge(1)] | Literal["auto"] = "auto"
    """auto: one for each GPU of this machine, or one where there is none."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU for each process where there are some; cpu: processes talk over gloo."""
    zero: Literal[1, 2, 3] = 2
    """deepspeed: split optimizer states (1), gradients too (2), weights too (3)."""
    offload: bool = False
    """fsdp, deepspeed: keep weights and optimizer states in the memory of the machine, not of the device."""
