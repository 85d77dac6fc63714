from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lpa_interp.chat import completion_row, end_of_turn
from lpa_interp.errors import InputError
from lpa_interp.generation import generate
from probes import personas
from probes.activations import COMPLETION_MEAN
from probes.personas import persona_rows, persona_texts, read_persona
from probes.trait_sets import trait_set
from tests.tiny import tiny_model

HOOK = "blocks.2.hook_resid_pre"


@pytest.fixture(autouse=True)
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs of opposed instructions and six questions, laid out as the public data."""
    folder = tmp_path / "persona_vectors" / "trait_data_extract"
    folder.mkdir(parents=True)
    pairs = [{"pos": f"Be rude {n}.", "neg": f"Be kind {n}."} for n in range(2)]
    content = {"instruction": pairs, "questions": [f"Who is number {n}?" for n in range(6)]}
    (folder / "evil.json").write_text(json.dumps(content))
    monkeypatch.setenv("LPA_DATA_DIR", str(tmp_path))


def asked(n_questions: int) -> dict[str, list[set[str]]]:
    """The questions of each pair of instructions, under the persona and under its opposite."""
    texts = persona_texts("evil", n_questions, seed=1)
    found: dict[str, list[set[str]]] = {}
    for label, group, question in zip(texts.labels, texts.groups, texts.prompts, strict=True):
        found.setdefault(group, [set(), set()])[int(label)].add(question)
    return found


def test_each_question_is_asked_under_both_instructions_of_its_pair() -> None:
    texts = persona_texts("evil", 5, seed=1)
    assert texts.n == 10 and texts.direction == "persona_vectors:not evil"
    kind = ["kind" in str(system) for system in texts.systems]
    assert kind == texts.labels.tolist()
    assert persona_texts("evil", 5, seed=1).ids == texts.ids
    found = asked(5)
    assert all(persona == opposite for persona, opposite in found.values())
    assert sorted(len(both[0]) for both in found.values()) == [2, 3]
    assert len(set.union(*(both[0] for both in found.values()))) == 5


def test_all_questions_can_be_asked_under_all_instructions() -> None:
    for n_questions in range(2, 13):
        assert sum(len(both[0]) for both in asked(n_questions).values()) == n_questions
    assert persona_texts("evil", 12).ids == trait_set("persona_vectors:evil").ids


def test_more_questions_than_there_are_or_an_unknown_persona_are_refused() -> None:
    wrong = (("evil", 13, "2 to 12"), ("kind", 2, "unknown"), ("sycophantic", 2, "not on"))
    for trait, n, message in wrong:
        with pytest.raises(InputError, match=message):
            persona_texts(trait, n)


def test_activations_are_means_over_the_models_own_completion() -> None:
    model, texts = tiny_model(), persona_texts("evil", 2)
    rows = persona_rows(model, texts, max_new_tokens=6)
    read = read_persona(model, rows, [HOOK], max_new_tokens=6, batch_size=3)
    assert read.positions == (COMPLETION_MEAN,) and read.n == texts.n
    for index in (0, texts.n - 1):
        (text,) = generate(model, [rows[index]], 6)
        answer = completion_row(model, text, end=False)[:6] or [end_of_turn(model)]
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([[*rows[index], *answer]]))
        expected = cache[HOOK][0, -len(answer) :].double().mean(0).numpy()
        np.testing.assert_allclose(read.at(HOOK, COMPLETION_MEAN)[index], expected, atol=1e-5)


def test_an_empty_completion_is_read_at_the_token_that_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, texts = tiny_model(), persona_texts("evil", 2)
    rows = persona_rows(model, texts)
    monkeypatch.setattr(personas, "generate", lambda model, rows, *sizes: [""] * len(rows))
    read = read_persona(model, rows, [HOOK])
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([[*rows[0], end_of_turn(model)]]))
    np.testing.assert_allclose(read.at(HOOK, 0)[0], cache[HOOK][0, -1].numpy(), atol=1e-5)


def test_prompts_that_leave_no_room_for_an_answer_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="at most 1 fit this model"):
        persona_rows(model, persona_texts("evil", 2), max_new_tokens=model.cfg.n_ctx - 1)
