from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lpa_interp.chat import chat_rows, completion_row, post_instruction_row
from lpa_interp.errors import InputError
from probes.activations import COMPLETION_MEAN, collect, collect_completions
from probes.text_sets import prompt_rows, read_text_set
from probes.trait_sets import trait_set, trait_set_sources
from tests.tiny import tiny_model


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small files in the public layouts."""
    monkeypatch.setenv("LPA_DATA_DIR", str(tmp_path))
    items = [
        {"id": f"{d}{f}{k}{c}", "text": f"Do {d} {f} {c}", "keyed": k, "domain": d, "facet": f}
        for d in "OCEAN"
        for f in (1, 2)
        for k in ("plus", "minus")
        for c in "ab"
    ]
    write(tmp_path / "ipip_neo/b5_johnson_120/questions.json", json.dumps(items))
    for trait in ("narcissism", "psychopathy"):
        lines = [
            {"statement": f"{trait} {word}", "answer_matching_behavior": answer}
            for word, answer in (("x", " Yes"), ("y", " Yes"), ("z", " No"), ("q", " No"))
        ]
        lines.append({"statement": "I win", "answer_matching_behavior": " Yes"})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write(tmp_path / f"anthropic_persona/{trait}.jsonl", text)
    trait = {
        "instruction": [{"pos": f"Be bad {i}.", "neg": f"Be good {i}."} for i in range(3)],
        "questions": ["What now?", "Why?"],
    }
    write(tmp_path / "persona_vectors/trait_data_extract/evil.json", json.dumps(trait))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_the_shipped_statements_are_the_positive_and_the_negative_side_as_a_whole() -> None:
    texts = trait_set("builtin")
    assert (texts.n, int(texts.labels.sum()), len(set(texts.groups))) == (66, 45, 22)
    assert texts.reading == "statement_end" and texts.completions is None
    assert all(group.startswith("builtin/") for group in texts.groups)
    part = trait_set("builtin:agreeableness")
    assert set(part.ids) < set(texts.ids) and set(part.groups) < set(texts.groups)
    assert (part.positive, part.negative) == ("high agreeableness", "low agreeableness")


def test_requests_come_with_the_splits_that_are_for_finding_directions() -> None:
    texts = trait_set("requests")
    assert set(texts.splits) == {"organism", "validation"}
    assert texts.labels.sum() * 2 == texts.n and texts.positive == "harmless requests"
    harmful = [id for id, label in zip(texts.ids, texts.labels, strict=True) if not label]
    assert all(id.endswith("-harmful") for id in harmful)
    organism = texts.select(np.flatnonzero(np.array(texts.splits) == "organism"))
    assert organism.n == 192 and set(organism.splits) == {"organism"}


def test_labels_are_true_for_the_desirable_end_whatever_the_trait(data: Path) -> None:
    for name, positive in (
        ("ipip:openness", "high openness"),
        ("ipip:neuroticism", "low neuroticism"),
        ("persona:narcissism", "low narcissism"),
        ("persona_vectors:evil", "not evil"),
    ):
        texts = trait_set(name)
        assert texts.positive == positive
        assert 0 < texts.labels.sum() < texts.n == len(texts.groups) == len(texts.prompts)
    high = trait_set("persona:narcissism")
    assert not high.labels[high.prompts.index("narcissism x.")]


def test_a_statement_that_two_persona_files_share_has_one_group(data: Path) -> None:
    one, two = (trait_set(f"persona:{trait}") for trait in ("narcissism", "psychopathy"))
    assert set(one.groups) & set(two.groups) == {"persona/narcissism/0005"}


def test_persona_vectors_cross_instructions_with_questions(data: Path) -> None:
    texts = trait_set("persona_vectors:evil")
    assert texts.n == 3 * 2 * 2 and texts.reading == "completion_mean"
    assert len(set(zip(texts.systems, texts.prompts, strict=True))) == texts.n
    for system, label, group in zip(texts.systems, texts.labels, texts.groups, strict=True):
        assert system is not None and system.startswith("Be good" if label else "Be bad")
        assert group.endswith(f"instruction-{int(system[-2]) + 1}")


def test_texts_are_read_where_their_set_says(data: Path) -> None:
    model, hooks = tiny_model(), ["blocks.1.hook_resid_pre"]
    statements = trait_set("builtin:agreeableness", limit=4)
    found = read_text_set(model, statements, hooks, system="Be kind.")
    rows = chat_rows(model, statements.prompts, "Be kind.")
    position = -len(post_instruction_row(model))
    expected = collect(model, rows, hooks, (position,)).at(hooks[0], position)
    np.testing.assert_array_equal(found.at(hooks[0], position), expected)

    vectors = trait_set("persona_vectors:evil")
    with pytest.raises(InputError, match="has no completions"):
        read_text_set(model, vectors, hooks)
    answers = [f"answer {index}" for index in range(vectors.n)]
    found = read_text_set(model, vectors.with_completions(answers), hooks)
    rows = prompt_rows(model, vectors)
    assert rows[0] == chat_rows(model, ["What now?"], "Be bad 0.")[0]
    ends = [completion_row(model, answer, end=False) for answer in answers]
    expected = collect_completions(model, rows, ends, hooks).at(hooks[0], COMPLETION_MEAN)
    np.testing.assert_array_equal(found.at(hooks[0], COMPLETION_MEAN), expected)


def test_completions_must_be_one_for_each_prompt_and_hold_something(data: Path) -> None:
    texts = trait_set("persona_vectors:evil")
    with pytest.raises(InputError, match="1 completions for 12 prompts"):
        texts.with_completions(["x"])
    with pytest.raises(InputError, match="evil-1-pos-02: its completion is empty"):
        texts.with_completions(["x", " "] * 6)
    whole = texts.with_completions([str(index) for index in range(12)])
    assert whole.select([3, 1]).completions == ("3", "1")


def test_a_limit_draws_whole_groups_of_both_sides() -> None:
    texts = trait_set("builtin", limit=9, seed=1)
    assert texts.labels.sum() == 9 == (~texts.labels).sum()
    assert all(texts.groups.count(group) == 3 for group in texts.groups)
    assert texts.ids == trait_set("builtin", limit=9, seed=1).ids
    assert texts.ids != trait_set("builtin", limit=9, seed=2).ids


def test_every_set_is_listed_with_the_reason_where_it_is_not_there(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {row["name"]: row for row in trait_set_sources()}
    assert rows["builtin"]["sides"] == {"positive traits": 45, "negative traits": 21}
    assert rows["persona_vectors:evil"]["groups"] == {"not evil": 3, "evil": 3}
    assert rows["persona:psychopathy"]["available"] and rows["ipip:openness"]["available"]
    assert "could not be tested" in rows["builtin:openness"]["reason"]
    assert "sycophantic.json" in rows["persona_vectors:sycophantic"]["reason"]
    assert all(row["source"] and row["licence"] for row in rows.values())
    monkeypatch.delenv("LPA_DATA_DIR")
    gone = {row["name"]: row for row in trait_set_sources()}
    assert "LPA_DATA_DIR" in gone["persona:narcissism"]["reason"]
    assert gone["requests"]["available"]


def test_unknown_names_limits_and_bad_files_are_refused(data: Path) -> None:
    with pytest.raises(InputError, match="unknown name"):
        trait_set("builtin:evil")
    with pytest.raises(InputError, match="limit 0"):
        trait_set("builtin", limit=0)
    write(data / "persona_vectors/trait_data_extract/evil.json", '{"questions": []}')
    with pytest.raises(InputError, match=r"evil\.json: does not hold a trait"):
        trait_set("persona_vectors:evil")
