"""Who teaches a run: found and checked before any weight is read, loaded when training begins, scored beside the
student."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignkit.config.sections import Model, Quantization
from alignkit.console import log
from alignkit.data.prepare import Prepared, prepare
from alignkit.data.rows import UNTRAINED, Encoded
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.cost import cost_of
from alignkit.evaluation.inference import bare
from alignkit.evaluation.probe import probe
from alignkit.models.jsonfile import read_object
from alignkit.models.loading import load, load_tokenizer
from alignkit.models.sources import context_length, locate
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.stages.distill import comparison, nested
from alignkit.stages.distill.crossing import Crossing
from alignkit.stages.distill.losses.vocabularies import in_common
from alignkit.stages.distill.recipe import Recipe
from alignkit.stages.distill.recipe_faults import TEXT_MODES
from alignkit.teachers.cached import CachedTeacher
from alignkit.teachers.circumstances import circumstances
from alignkit.teachers.live import LiveTeacher, MeanTeacher
from alignkit.teachers.served import ServedTeacher
from alignkit.teachers.teacher import Teacher
from alignkit.training.divergences import Objective
from alignkit.training.results import NAMES_BACK


class Teaching:
    """The teacher of a run. ``require_fitting`` first, then ``stand`` for the targets."""

    teacher: Any = None
    """A ``Teacher`` once it stands; with another tokenizer the live model behind ``crossing``."""
    crossing: Crossing | None = None
    tokens_in_common: int | None = None
    """Ids below this mean the same to both; None: another vocabulary."""

    def __init__(self, recipe: Recipe, run: RunDirectory) -> None:
        self.recipe, self.run, self.options = recipe, run, recipe.distill
        named = self.options.teacher
        self.named = named if named is not None and named.name else None
        self.source = locate(self.named) if self.named is not None else None
        self._about: dict[str, Any] = {}

    @property
    def context_length(self) -> int | None:
        """Tokens that the teachers read at most; None: not known here."""
        sources = [self.source] if self.source is not None else []
        found = [context_length(one) for one in (*sources, *map(locate, self.options.teachers))]
        known = [one for one in found if one is not None]
        return min(known) if known else None

    @property
    def section(self) -> Model:
        """The teacher's model section; of one that is corrected first, what came of that (trained now if need be)."""
        assert self.named is not None
        if not self.options.correct_teacher.steps:
            return nested.plain(self.named)
        return replace(
            nested.plain(self.named),
            name=str(nested.corrected_teacher(self.recipe, self.run)),
            installed_file=None,
            revision=None,
        )

    @property
    def section_as_stored(self) -> Model:
        """The same, to be read in the number format of its files where none is asked for: a student that is made of
        rounded weights would start from another model."""
        section = self.section
        if section.dtype != "auto":
            return section
        source = locate(section)
        while source.parent is not None:  # an adapter is folded into its base
            source = source.parent
        file = source.path / "config.json" if source.path is not None else None
        config = read_object(file, "distill.teacher.name") if file is not None and file.is_file() else {}
        said = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        return replace(section, dtype=NAMES_BACK.get(said, "fp32"))  # type: ignore[arg-type]

    @property
    def quantization(self) -> Quantization:
        return self.named.quantization if self.named is not None else Quantization()

    def tokenizer(self) -> Any:
        """The named teacher's own."""
        assert self.named is not None
        return load_tokenizer(self.named, self.source)

    def objective(self) -> Objective:
        """What a position costs."""
        options = self.options
        return Objective(
            kind="uld" if options.tokenizers == "uld" else options.divergence,
            temperature=options.temperature,
            beta=options.beta,
            skew=options.skew,
            weight=options.weight,
            ce=options.ce,
        )

    # --- before any weight is read -------------------------------------------------------------------------------

    def require_fitting(self, prepared: Prepared, tokenizer: Any) -> None:
        """Vocabularies, the cache and the server are what this student and these rows need. Raises RequestError."""
        if self.options.mode in TEXT_MODES:
            return
        if self.options.cache is not None:
            self.teacher = self._cached(self.options.cache, prepared.train, tokenizer)
            self._require_common(self.teacher.tokenizer(), tokenizer, "distill.cache")
        elif self.options.server.url is not None:
            self.teacher = self._served(tokenizer)
        elif self.options.tokenizers == "same":
            self._require_common(self.tokenizer(), tokenizer, "distill.teacher.name")
            for number, section in enumerate(self.options.teachers):
                other = load_tokenizer(section, locate(section))
                self._require_common(other, tokenizer, f"distill.teachers[{number}].name")
        else:
            self._require_other(prepared, tokenizer)

    def _require_common(self, theirs: Any, ours: Any, where: str) -> None:
        found = in_common(ours, theirs)
        if found.difference is not None:
            raise RequestError(
                Fault(
                    where=where,
                    what=f"its vocabulary is not the student's: {found.difference}",
                    instead="Take a teacher of the student's family, or write distill.tokenizers=uld or spans.",
                )
            )
        known = self.tokens_in_common
        self.tokens_in_common = found.tokens if known is None else min(known, found.tokens)

    def _cached(self, path: str, rows: Sequence[Encoded], tokenizer: Any) -> CachedTeacher:
        cache = CachedTeacher(Path(path), where="distill.cache")
        cache.require(rows, circumstances(self.recipe.data, tokenizer, digest_file=file_digest))
        if self.named is not None:
            cache.require_teacher(self.named)
        self._about["cache"] = str(cache.directory)
        return cache

    def _served(self, tokenizer: Any) -> ServedTeacher:
        server = self.options.server
        name = server.model or (self.named.name if self.named is not None else None)
        if name is None:
            raise RequestError(
                Fault(
                    where="distill.server.model",
                    what="nothing says what the server calls the model",
                    instead="Write distill.server.model=…",
                )
            )
        if self.named is not None:
            self._require_common(self.tokenizer(), tokenizer, "distill.teacher.name")
        teacher = ServedTeacher(server, tokenizer, name=name, where="distill.server")
        teacher.require_log_probs()
        self._about["server"] = server.url
        return teacher

    def _require_other(self, prepared: Prepared, tokenizer: Any) -> None:
        """A teacher of another vocabulary can read every row in its own tokens."""
        theirs = self.tokenizer()
        if in_common(tokenizer, theirs).difference is None:
            log.warn(
                f"teacher and student have one vocabulary, and distill.tokenizers={self.options.tokenizers} compares "
                "less than distill.tokenizers=same does"
            )
        limit = context_length(self.source) if self.source is not None else None
        # The same rows take other numbers of tokens; what the teacher cannot read is told below.
        data = replace(self.recipe.data, template=None, max_length=limit or 8 * self.recipe.data.max_length)
        self._their_rows = prepare(data, theirs, digest_file=file_digest, held_out_rows=0).train
        self._our_tokenizer, self._our_rows = tokenizer, prepared.train

    # --- for training ------------------------------------------------------------------------------------------------

    def stand(self) -> None:
        """Load the teacher, unless it stands already or needs no memory here."""
        if self.teacher is not None:
            return
        first = LiveTeacher.of(self.section, self.quantization)
        self._about["parameters"] = first.parameters
        others = [LiveTeacher.of(nested.plain(section), self.quantization) for section in self.options.teachers]
        assert self.named is not None
        weights = [self.named.weight, *(section.weight for section in self.options.teachers)]
        teacher: Teacher = MeanTeacher([first, *others], weights) if others else first
        if self.options.tokenizers != "same":
            self.crossing = Crossing(
                first,
                self.options.tokenizers,
                self._our_tokenizer,
                self._their_rows,
                ends=(_ends(self._our_rows, self._our_tokenizer), _ends(self._their_rows, first.tokenizer)),
            )
            self.crossing.require(self._our_rows)
        self.teacher = teacher

    def compare_sizes(self, student: Any) -> None:
        """Warn of a teacher that is smaller than its student."""
        size, own = self._about.get("parameters"), bare(student).num_parameters()
        if size is not None and size < own and not self.options.teachers:
            log.warn(
                f"the teacher is smaller than the student ({size:,} weights against {own:,}): it may have little to say"
            )

    def about(self) -> dict[str, Any]:
        """What the manifest says of the teacher."""
        found = {"name": self.named.name if self.named is not None else None, **self._about}
        if self.tokens_in_common is not None:
            found["tokens_in_common"] = self.tokens_in_common
        return found

    # --- scores ------------------------------------------------------------------------------------------------------

    def evaluate(self, prepared: Prepared, tokenizer: Any) -> None:
        """Score each teacher whose weights are at hand on the held-out rows, where that was not done before."""
        asked = self.recipe.evaluation.decides()
        done = self.run.read_mark(comparison.TEACHER) or {}
        if self.named is None or self.options.server.url is not None or not prepared.held_out:
            return
        if done.get("evaluation") == asked:
            return
        found: dict[str, Any] = {}
        sections = [(self.section, self.source), *((nested.plain(one), locate(one)) for one in self.options.teachers)]
        for number, (section, _) in enumerate(sections, 1):
            name = "teacher" if len(sections) == 1 else f"teacher {number}"
            log.say(f"evaluating the {name}")
            loaded = load(section, self.quantization)
            rows = prepared.held_out
            if in_common(tokenizer, loaded.tokenizer).difference is not None:
                data = replace(self.recipe.data, template=None)
                rows = prepare(
                    data, loaded.tokenizer, digest_file=file_digest, held_out_rows=self.recipe.evaluation.rows
                ).held_out
            scores = probe(loaded.model, loaded.tokenizer, rows, self.recipe.evaluation)
            found[name] = {"scores": scores.as_dict(), "cost": cost_of(loaded.model).as_dict()}
            del loaded
            gc.collect()
        self.run.mark(comparison.TEACHER, {"evaluation": asked, "models": found})


def _ends(rows: Sequence[Encoded], tokenizer: Any) -> set[int]:
    """Tokens that end an answer: the tokenizer's own, and the special one that the rows' answers end with."""
    found: set[int] = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    labels = next((row.labels for row in rows), [])
    last = next((label for label in reversed(labels) if label != UNTRAINED), None)
    if last is not None and last in special:
        found.add(last)
    return found
