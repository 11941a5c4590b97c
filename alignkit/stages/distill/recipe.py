"""Options of the distill stage: who teaches, what is compared, on which answers, and where the student comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from alignkit.config.recipe import GradientRecipe
from alignkit.config.sections import BY_CONTENT, OPERATIONAL, Quantization
from alignkit.errors import Fault
from alignkit.models.students.recipe import Student
from alignkit.teachers.recipe import Server, WeightedTeacher, cache_files


@dataclass(kw_only=True)
class Teacher(WeightedTeacher):
    """The model to learn from."""

    quantization: Quantization = field(default_factory=Quantization)
    """Its weights in 4 or 8 bits, so that it fits beside the student."""


@dataclass(kw_only=True)
class Hidden:
    """Losses on hidden states, beside the divergence of the predictions. They need a teacher in memory."""

    loss: Literal["none", "mse", "cosine"] = "none"
    """mse: mean square over the channels; cosine: 1 less the cosine (DistilBERT, Sanh et al. 2019, section 3)."""
    weight: Annotated[float, Gt(0)] = 1.0
    """Factor of the loss, a mean over the mapped layers and the trained tokens."""
    layers: dict[str, int] = field(default_factory=dict)
    """Student's layer to teacher's, counted from 1; 0 is the embedding, -1 the last layer. Empty: each layer of a
    student that was made from its teacher to the one that it was; else at even distances, the last to the last."""
    projection: bool | Literal["auto"] = "auto"
    """Learn a linear map from the student's channels to the teacher's (FitNets, Romero et al. 2015); auto: where they
    differ in number."""


@dataclass(kw_only=True)
class OnPolicy:
    """mode=on-policy: the student answers, and learns from what the teacher thinks of each of its tokens (GKD, Agarwal
    et al. 2024, algorithm 1)."""

    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """Lambda: chance of a row to be answered by the student; the others keep the answer of the data."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Divides the logits when the student answers; 1: its own distribution."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Draw from the smallest set of tokens whose probability reaches this; 1: from all."""
    max_new_tokens: Annotated[int, Ge(1)] = 128
    """Longest answer of the student in tokens."""
    batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Answers written at once, with a key and value cache."""


@dataclass(kw_only=True)
class Answers:
    """mode=sequence: the teacher's answers to the training prompts are what the student is trained on (Kim and Rush
    2016, section 3.2). They stand in answers.jsonl of the run."""

    samples: Annotated[int, Ge(1)] = 1
    """Answers to a prompt."""
    temperature: Annotated[float, Ge(0)] = 0.0
    """Divides the teacher's logits; 0: its likeliest token each time."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Draw from the smallest set of tokens whose probability reaches this; 1: from all."""
    max_new_tokens: Annotated[int, Ge(1)] = 256
    """Longest answer in tokens; answers that it cuts off are left out."""
    batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Answers written at once."""


@dataclass(kw_only=True)
class Steps:
    """mode=step-by-step: the student learns the label and the reasons for it as two tasks, told apart by a prefix of
    the prompt (Hsieh et al. 2023, section 3.2)."""

    alpha: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Weight of the label's loss; the rationale's has 1 - alpha. Each is a mean over its own tokens."""
    label_prefix: str = "[label] "
    """Before a prompt that asks for the answer; give it to the trained model too."""
    rationale_prefix: str = "[rationale] "
    """Before a prompt that asks for the reasons."""
    rationale: str = "rationale"
    """Column of the data with the reasons; without such a column the teacher writes them."""
    instruction: str = "The answer is: {answer}\n\nExplain step by step why, in a few sentences."
    """Where the teacher writes the rationales: what it is told after the prompt of a row. {answer} is the row's."""
    temperature: Annotated[float, Ge(0)] = 0.0
    """Divides the teacher's logits when it writes a rationale; 0: its likeliest token each time."""
    max_new_tokens: Annotated[int, Ge(1)] = 256
    """Longest rationale in tokens."""
    batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Rationales written at once."""


@dataclass(kw_only=True)
class Correction:
    """The teacher is trained on the data first, so that it knows the distribution that it is asked about (Sreenivas et
    al. 2024)."""

    steps: Annotated[int, Ge(0)] = 0
    """Optimizer steps of plain supervised fine-tuning of all of the teacher's weights; 0: the teacher stays as it is.
    The corrected teacher stands in teacher/model of the run."""
    learning_rate: Annotated[float, Gt(0)] = 1e-5
    """Peak learning rate of these steps."""


@dataclass(kw_only=True)
class DistillOptions:
    """What is peculiar to distillation."""

    teacher: Teacher | None = None
    """The model to learn from; not needed with a cache or a server. Short form: teacher=…"""
    teachers: list[WeightedTeacher] = field(default_factory=list)
    """Further teachers of the same vocabulary: the target is the weighted mean of all their probabilities."""
    cache: str | None = field(default=None, metadata=BY_CONTENT)
    """A teacher-cache run (the path that `alignkit train recipe=teacher-cache` prints); no teacher is loaded then."""
    server: Server = field(default_factory=Server)
    """A server with the teacher behind it, in place of one that is loaded here."""
    mode: Literal["logits", "on-policy", "sequence", "step-by-step"] = "logits"
    """logits: the teacher's distribution at each trained token of the data; on-policy: also at tokens that the student
    wrote; sequence: the teacher's answers as text; step-by-step: labels and rationales as text."""
    divergence: Literal["forward-kl", "reverse-kl", "skewed-kl", "skewed-reverse-kl", "jsd", "tv"] = "forward-kl"
    """What is made small between the two distributions: KL(teacher, student), KL(student, teacher), either of them
    against a mixture (skew), the generalized Jensen-Shannon divergence (beta), or half the absolute difference."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Divides the logits of both; the divergence counts its square (Hinton et al. 2015, section 2.1)."""
    beta: Annotated[float, Gt(0), Lt(1)] = 0.5
    """jsd: share of the teacher in the mixture; towards 0 as forward-kl, towards 1 as reverse-kl (Agarwal et al. 2024,
    equation 1)."""
    skew: Annotated[float, Gt(0), Lt(1)] = 0.1
    """skewed-kl, skewed-reverse-kl: share of the divergence's own side in the mixture (Ko et al. 2024: 0.1)."""
    weight: Annotated[float, Ge(0)] = 1.0
    """Factor of the divergence."""
    ce: Annotated[float, Ge(0)] = 0.0
    """Factor of the cross entropy with the data's tokens. For a ratio r of the two: weight=1-r and ce=r."""
    tokenizers: Literal["same", "uld", "spans"] = "same"
    """same: one vocabulary, padding aside. Of different ones, uld compares sorted probabilities place by place (Boizard
    et al. 2024); spans compares where both have read the same text, on the tokens that both have."""
    hidden: Hidden = field(default_factory=Hidden)
    on_policy: OnPolicy = field(default_factory=OnPolicy)
    answers: Answers = field(default_factory=Answers)
    steps: Steps = field(default_factory=Steps)
    student: Student = field(default_factory=Student)
    correct_teacher: Correction = field(default_factory=Correction)
    baseline: bool = False
    """Also train the same student by plain supervised fine-tuning on the same rows, in baseline/ of the run, so that
    what distillation itself gains is a number."""


@dataclass(kw_only=True)
class Recipe(GradientRecipe):
    """Distillation: the whole student, or an adapter on it, learns from a teacher."""

    semantics: ClassVar[int] = 1
    trl_config: ClassVar[str | None] = "SFTConfig"
    trl_owned: ClassVar[dict[str, str]] = {"loss_type": "distill.divergence"}

    distill: DistillOptions

    @classmethod
    def imported(cls, tree: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
        """A student that is made from its teacher needs no model of its own: the teacher's stands for it."""
        options = tree.get("distill")
        if not isinstance(options, dict) or not isinstance(teacher := options.get("teacher"), dict):
            return None
        student, model = options.get("student"), tree.get("model")
        made = isinstance(student, dict) and student.get("kind", "given") != "given"
        named = isinstance(model, dict) and model.get("name") not in (None, "", "???")
        if not made or named:
            return None
        shared = ("name", "installed_file", "revision", "trust_remote_code", "allow_pickle")
        return {"model": {key: teacher[key] for key in shared if key in teacher}}, "distill.teacher"

    def why_alone(self) -> str | None:
        options = self.distill
        if options.mode != "logits":
            return f"distill.mode={options.mode}"
        if options.tokenizers != "same":
            return f"distill.tokenizers={options.tokenizers}"
        if options.hidden.loss != "none":
            return "distill.hidden"
        if options.student.kind != "given":
            return "A student that is made from its teacher"
        if options.correct_teacher.steps:
            return "distill.correct_teacher"
        return "distill.baseline" if options.baseline else None

    def files_read(self) -> dict[str, list[Path]]:
        return {"distill.cache": cache_files(self.distill.cache)} if self.distill.cache is not None else {}

    def faults(self) -> Iterator[Fault]:
        from alignkit.stages.distill.recipe_faults import faults

        yield from super().faults()
        yield from faults(self)
