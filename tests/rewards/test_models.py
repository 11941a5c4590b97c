"""Reward models and judges: what they say is what their model says, whatever is judged beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.config.sections import Model
from alignkit.errors import NumericsError, RequestError
from alignkit.rewards.judged import Judged
from alignkit.rewards.mixture import reward
from alignkit.rewards.recipe import RewardSource
from tests.tiny import build_tokenizer, save_tiny


def classifier(place: Path, *, outputs: int = 1, kind: str = "llama", **changes: Any) -> Path:
    """A tiny reward model with a random head."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        kind, **shape, vocab_size=259, num_key_value_heads=2, max_position_embeddings=128, num_labels=outputs, **changes
    )
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config)
    model.config.pad_token_id = 0
    model.save_pretrained(place)
    build_tokenizer().save_pretrained(place)
    return place


def asked(*answers: str) -> list[Judged]:
    prompts: list[Any] = [[{"role": "user", "content": "why " * (1 + at)}] for at in range(len(answers))]
    return [Judged(prompt=prompt, answer=answer) for prompt, answer in zip(prompts, answers, strict=True)]


def test_a_reward_model_scores_the_whole_conversation(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    place = classifier(tmp_path / "rm")
    given = asked("short", "a longer answer than the first", "", "mid one")
    found = reward(RewardSource(name="model", model=Model(name=str(place), dtype="fp32")), batch=3)(given)
    tokenizer = build_tokenizer()
    model = AutoModelForSequenceClassification.from_pretrained(place).eval()
    expected = []
    for row in given:
        text = tokenizer.apply_chat_template(row.conversation, tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            expected.append(float(model(ids).logits[0, 0]))
    assert len(set(expected)) == 4
    assert found == pytest.approx(expected, abs=1e-5)
    rough = reward(RewardSource(name="model", model=Model(name=str(place), dtype="bf16")), batch=1)(given)
    assert rough == pytest.approx(expected, abs=2e-3)
    assert any(score != float(torch.tensor(score).bfloat16()) for score in rough), "the head should compute in fp32"


def test_an_adapter_with_a_head_on_a_causal_base(tmp_path: Path) -> None:
    """What PEFT makes of the same files."""
    from peft import LoraConfig, PeftModel, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = save_tiny(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.manual_seed(3)
    wrapped = get_peft_model(
        model, LoraConfig(task_type=TaskType.SEQ_CLS, target_modules="all-linear", init_lora_weights=False)
    )
    wrapped.save_pretrained(tmp_path / "adapter")
    source = RewardSource(name="model", model=Model(name=f"{tmp_path}/adapter", dtype="fp32"))
    found = reward(source)(asked("one", "two words"))
    again = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(base, num_labels=1), tmp_path / "adapter"
    ).eval()
    tokenizer = build_tokenizer()
    for row, score in zip(asked("one", "two words"), found, strict=True):
        text = tokenizer.apply_chat_template(row.conversation, tokenize=False)
        with torch.no_grad():
            expected = again(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits
        assert score == pytest.approx(float(expected), abs=1e-4)


def test_the_end_of_a_long_conversation_is_what_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = reward(RewardSource(name="model", model=Model(name=str(classifier(tmp_path / "rm")), dtype="fp32")))
    scores = found(asked("x" * 300, "x" * 301, "y" * 300))
    assert scores[0] == pytest.approx(scores[1], abs=1e-5) and scores[0] != pytest.approx(scores[2], abs=1e-5)
    assert capsys.readouterr().err.count("of longer conversations it sees the end") == 1


def test_plain_text_is_scored_without_a_template(tmp_path: Path) -> None:
    found = reward(RewardSource(name="model", model=Model(name=str(classifier(tmp_path / "rm")), dtype="fp32")))
    one, same, other = found(
        [Judged(prompt="ab", answer="cd"), Judged(prompt="abc", answer="d"), Judged(prompt="ab", answer="ce")]
    )
    assert one == pytest.approx(same, abs=1e-5) and one != pytest.approx(other, abs=1e-5)


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is no reward model: it is a LlamaForCausalLM"):
        reward(str(save_tiny(tmp_path / "causal")))
    with pytest.raises(RequestError, match="it has 3 outputs"):
        reward(str(classifier(tmp_path / "three", outputs=3)))


def test_a_judge_gives_the_grade_that_it_expects(tmp_path: Path) -> None:
    """Against the definition on the full softmax, one answer at a time."""
    from transformers import AutoModelForCausalLM

    place = save_tiny(tmp_path / "judge", initializer_range=0.5, max_position_embeddings=1024)
    given = asked("short", "a longer answer", "third")
    template = "Q {prompt} R {reference} A {answer} {subject} {unknown}"
    given = [Judged(prompt=row.prompt, answer=row.answer, columns={"subject": "S"}) for row in given]
    source = RewardSource(name="judge", model=Model(name=str(place), dtype="fp32"), template=template)
    found = reward(source, batch=2)(given)
    tokenizer, model = build_tokenizer(), AutoModelForCausalLM.from_pretrained(place).eval()
    for row, score in zip(given, found, strict=True):
        assert not isinstance(row.prompt, str)
        text = f"Q User: {row.prompt[0]['content']} R {{reference}} A {row.answer} S {{unknown}}"
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer(rendered, add_special_tokens=False)["input_ids"]])).logits[0, -1]
        digits = [tokenizer.convert_tokens_to_ids(str(grade)) for grade in range(1, 10)]
        share = torch.softmax(logits, -1)[digits]
        expected = float((share * torch.arange(1, 10)).sum() / share.sum())
        assert 1 <= score <= 9
        assert score == pytest.approx(expected, abs=1e-4)
    assert len({round(score, 4) for score in found}) == 3


def test_a_judge_that_gives_no_grades_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = save_tiny(tmp_path / "judge", max_position_embeddings=1024)
    found = reward(RewardSource(name="judge", model=Model(name=str(place))))
    found(asked("a", "b"))
    found(asked("a"))
    assert capsys.readouterr().err.count("the judge would reply with a grade in") == 1


def test_a_question_beyond_the_judges_context(tmp_path: Path) -> None:
    place = save_tiny(tmp_path / "judge", max_position_embeddings=64)
    with pytest.raises(NumericsError, match=r"was asked \d+ tokens, and the judge reads 64"):
        reward(RewardSource(name="judge", model=Model(name=str(place))))(asked("a"))


def test_a_reward_model_of_another_vocabulary_is_asked_through_text(tmp_path: Path) -> None:
    """Its own tokens and template, whatever the policy's are: 300 tokens in another order, and words as tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    place = classifier(tmp_path / "rm")
    words = ["<pad>", "<unk>", "[USER]", "[BOT]", *[f"w{number}" for number in range(250)]]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    own.chat_template = (
        "{% for m in messages %}{{ ('[USER] ' if m['role'] == 'user' else '[BOT] ') + m['content'] + ' ' }}{% endfor %}"
    )
    own.save_pretrained(place)
    prompt = [{"role": "user", "content": "w9 w3"}]
    rows = [Judged(prompt=prompt, answer=answer) for answer in ("w1 w7 w8", "w200", "unheard of")]
    found = reward(RewardSource(name="model", model=Model(name=str(place), dtype="fp32")))(rows)
    model = AutoModelForSequenceClassification.from_pretrained(place).eval()
    for answer, score in zip(([5, 11, 12], [204], [1, 1]), found, strict=True):
        with torch.no_grad():
            expected = float(model(torch.tensor([[2, 13, 7, 3, *answer]])).logits[0, 0])
        assert score == pytest.approx(expected, abs=1e-5)


def test_an_adapter_beside_a_policy_of_the_same_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers, no second base; and by itself, with a line, where the base is another."""
    from alignkit.rewards.mixture import Rewards
    from tests.models.test_beside import make_policy, make_reward

    base, other = save_tiny(tmp_path / "base"), save_tiny(tmp_path / "other", seed=8)
    place = make_reward(base, tmp_path / "reward")
    sources = [RewardSource(name="model", model=Model(name=str(place), dtype="fp32")), RewardSource(name="length")]
    given = asked("short", "a longer answer than the first", "mid one")
    alone = Rewards.of(sources)(given)
    policy = make_policy(base)
    capsys.readouterr()
    rewards = Rewards.of(sources, beside=policy)
    assert rewards(given) == alone
    said = " ".join(capsys.readouterr().err.split())
    assert "shares the policy's base in memory" in said and "by itself" not in said
    (shared, _), _ = rewards.parts.values()
    theirs = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    own = [p for p in shared.model.parameters() if p.untyped_storage().data_ptr() not in theirs]
    assert sum(p.numel() for p in own) == 32

    assert Rewards.of(sources, beside=make_policy(other))(given) == alone
    said = " ".join(capsys.readouterr().err.split())
    assert "is loaded by itself: it is an adapter on" in said and "in memory" not in said
