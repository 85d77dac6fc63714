from __future__ import annotations

from pathlib import Path

import pytest

from lpa_interp.benchmarks import list_benchmarks, load_benchmark
from lpa_interp.errors import InputError
from lpa_interp.traits import load_traits
from probes.neutral import PUBLIC_SET, SHIPPED_TEXT, neutral_prompts, sentences


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LPA_DATA_DIR", raising=False)
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path))


@pytest.mark.usefixtures("bare_machine")
def test_without_public_data_neutral_prompts_are_sentences_of_the_shipped_text() -> None:
    found = neutral_prompts(24)
    assert found.source == SHIPPED_TEXT and "LPA_DATA_DIR" in found.reason
    assert len(found.texts) == len(set(found.texts)) == 24
    assert all(6 <= len(text.split()) <= 20 and text.endswith(".") for text in found.texts)
    assert neutral_prompts(24, seed=1).texts != found.texts
    assert neutral_prompts(24).texts == found.texts


@pytest.mark.usefixtures("bare_machine")
def test_neutral_prompts_are_neither_requests_nor_statements() -> None:
    others = {prompt.text for prompt in load_benchmark("requests", "all")}
    others |= {statement.text for statement in load_traits()}
    assert not others & set(neutral_prompts(500).texts)


def test_with_public_data_they_are_harmless_instructions_of_the_length_of_requests() -> None:
    row = list_benchmarks([PUBLIC_SET])[0]
    if not row["available"]:
        pytest.skip(row["reason"])
    found = neutral_prompts(32)
    assert (found.source, found.reason, len(found.texts)) == (PUBLIC_SET, "", 32)
    assert set(found.texts) <= {prompt.text for prompt in load_benchmark(PUBLIC_SET)}
    assert all(6 <= len(text.split()) <= 20 for text in found.texts)


def test_headings_are_no_sentences_and_abbreviated_lines_are_joined() -> None:
    text = "A Heading\n\nOne goes\nup. Two goes down.\n\nIs three here? Yes.\n"
    assert sentences(text) == ["One goes up.", "Two goes down.", "Is three here?", "Yes."]


def test_no_prompts_cannot_be_asked_for() -> None:
    with pytest.raises(InputError, match="limit: 0"):
        neutral_prompts(0)
