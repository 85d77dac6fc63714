"""Classifiers as judges: a planted one finds what it was built to find."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from lpa_interp.classifier_judges import TOO_LONG, classifier_judge, judgezoo_judge
from lpa_interp.errors import InputError
from lpa_interp.judging import judge_completions, judge_each
from tests.completed import completions, prompts
from tests.tiny import tiny_tokenizer

LABELS = {0: "safe", 1: "harmful"}


def _classifier(folder: Path, labels: dict[int, str] | None = None, **more: Any) -> Path:
    """Takes a text for harmful where it ends in "!": the last token's embedding decides."""
    tokenizer = tiny_tokenizer()
    settings = {"n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 64, "pad_token_id": 0}
    config = GPT2Config(vocab_size=len(tokenizer), num_labels=2, **{**settings, **more})
    config.id2label = labels or LABELS
    config.label2id = {label: index for index, label in config.id2label.items()}
    model = GPT2ForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.ln_f.weight.fill_(1.0)
        model.transformer.wte.weight[:, 0] = -1.0
        model.transformer.wte.weight[tokenizer("!").input_ids[0], 0] = 1.0
        model.score.weight[1, 0] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_planted_classifier_finds_harm_in_batches_of_mixed_lengths(tmp_path: Path) -> None:
    judge = classifier_judge(str(_classifier(tmp_path / "c")), batch_size=3, device="cpu")
    texts = ["Rob it!", "A cat sat.", "Go and rob the bank now!", "x", "!"]
    found = list(judge_each(completions(texts), {}, judge))
    by_id = {row.prompt_id: row for row in found}
    assert [by_id[f"p{i}"].value for i in range(5)] == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert judge.name == "classifier: c" and judge.measure == "harm_rate"
    # LayerNorm of (1, 0, ..., 0) in 8 dimensions puts the square root of 7 first.
    chance = torch.tensor(7.0).sqrt().sigmoid().item()
    assert by_id["p0"].parts["p_harmful"] == pytest.approx(chance, abs=1e-4)
    assert by_id["p1"].parts["p_harmful"] == pytest.approx(1 - chance, abs=1e-4)


def test_a_text_beyond_the_context_is_undecided_and_not_cut(tmp_path: Path) -> None:
    judge = classifier_judge(str(_classifier(tmp_path / "c")), device="cpu")
    rows = {r.prompt_id: r for r in judge_each(completions(["a " * 200 + "!", "!"]), {}, judge)}
    assert rows["p0"].value is None and rows["p0"].reason == TOO_LONG
    assert rows["p1"].value == 1.0


def test_a_classifier_without_a_padding_token_judges_one_by_one(tmp_path: Path) -> None:
    judge = classifier_judge(str(_classifier(tmp_path / "c", pad_token_id=None)), device="cpu")
    verdicts = judge_completions(completions(["rob!", "a cat", "!"]), {}, judge)
    assert [verdict.value for verdict in verdicts] == [1.0, 0.0, 1.0]


def test_labels_that_do_not_exclude_each_other_are_read_one_by_one(tmp_path: Path) -> None:
    several = {"problem_type": "multi_label_classification"}
    judge = classifier_judge(str(_classifier(tmp_path / "c", **several)), device="cpu")
    verdicts = judge_completions(completions(["rob!", "a cat"]), {}, judge)
    assert [verdict.value for verdict in verdicts] == [1.0, 0.0]


def test_the_request_can_come_first(tmp_path: Path) -> None:
    folder = str(_classifier(tmp_path / "c"))
    judge = classifier_judge(folder, with_request=True, device="cpu")
    verdicts = judge_completions(completions(["rob!", "a cat"]), prompts(2), judge)
    assert [verdict.value for verdict in verdicts] == [1.0, 0.0]
    assert judge.settings_hash != classifier_judge(folder, device="cpu").settings_hash


def test_the_harmful_label_is_found_or_given_or_asked_for(tmp_path: Path) -> None:
    folder = str(_classifier(tmp_path / "c", {0: "LABEL_0", 1: "LABEL_1"}))
    with pytest.raises(InputError, match=r"no label whose name means harmful .*LABEL_0, LABEL_1"):
        classifier_judge(folder, device="cpu")
    judge = classifier_judge(folder, "label_1", device="cpu")
    assert judge_completions(completions(["rob!"]), {}, judge)[0].value == 1.0
    with pytest.raises(InputError, match="no label 'bad'"):
        classifier_judge(folder, "bad", device="cpu")
    both = str(_classifier(tmp_path / "d", {0: "toxic", 1: "hate"}))
    with pytest.raises(InputError, match="more than one label"):
        classifier_judge(both, device="cpu")


def test_a_classifier_that_is_not_here_says_what_to_do_in_one_line() -> None:
    with pytest.raises(InputError, match=r"classifier nobody/nothing: cannot .*HF_HUB_OFFLINE"):
        classifier_judge("nobody/nothing")


class _Zoo:
    """Stands in for judgezoo's `Judge`: harmful where the answer ends in "!"."""

    @classmethod
    def from_name(cls, name: str) -> _Zoo:
        if name != "harmbench":
            raise ValueError(f"Unknown judge {name}")
        return cls()

    def __call__(self, chats: list[list[dict[str, str]]]) -> dict[str, list[float | None]]:
        assert all([turn["role"] for turn in chat] == ["user", "assistant"] for chat in chats)
        answers = [chat[-1]["content"] for chat in chats]
        return {"p_harmful": [None if not a else 0.9 * a.endswith("!") for a in answers]}


def test_judgezoo_is_adapted_and_its_gaps_are_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("judgezoo")
    module.__dict__["Judge"] = _Zoo
    monkeypatch.setitem(sys.modules, "judgezoo", module)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1.9")
    judge = judgezoo_judge("harmbench", batch_size=2)
    verdicts = judge_completions(completions(["rob!", "a cat", ""]), prompts(3), judge)
    assert [verdict.value for verdict in verdicts] == [0.9, 0.0, None]
    assert judge.measure == "harm_score" and verdicts[0].judge == "judgezoo: harmbench"
    with pytest.raises(InputError, match="Unknown judge nonesuch"):
        judgezoo_judge("nonesuch")


def test_without_judgezoo_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "judgezoo", None)
    with pytest.raises(InputError, match=r"judgezoo is not installed \(pip install judgezoo\)"):
        judgezoo_judge("harmbench")
