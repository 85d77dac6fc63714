from __future__ import annotations

import numpy as np
import pytest
import torch

from lpa_interp.chat import chat_rows, post_instruction_row
from lpa_interp.errors import InputError
from probes.activations import collect
from probes.families import DirectionFamily, labelled_family
from probes.geometry import direction_angles
from probes.harmfulness import harmfulness_directions, instruction_end
from probes.nulls import COVARIANCE, PERMUTED
from probes.refusal import mean_differences
from tests.levels import keeps_its_level
from tests.planted import (
    HARM_WORDS,
    HARMLESS_WORDS,
    PLANTED_LAYER,
    harmful_rows,
    harmless_rows,
    refusing_model,
)
from tests.tiny import tiny_model


def test_it_is_read_at_the_last_token_of_the_instruction() -> None:
    model = tiny_model()
    position = instruction_end(model)
    assert position == -len(post_instruction_row(model)) - 1
    for text in ("open the lock", "tell me how to sing?"):
        row = chat_rows(model, [text])[0]
        assert model.tokenizer is not None
        assert text.endswith(model.tokenizer.decode([row[position]]).strip())
        assert "<|end|>" in model.tokenizer.decode([row[position + 1]])


def test_directions_are_mean_differences_of_plain_passes() -> None:
    model = tiny_model()
    harmful, harmless = harmful_rows(model, 5), harmless_rows(model, 7)
    found = harmfulness_directions(model, harmful, harmless, "base", batch_size=3)
    assert [row.layer for row in found] == list(range(model.cfg.n_layers))
    for direction in found:
        means = []
        for rows in (harmful, harmless):
            with torch.no_grad():
                read = [
                    model.run_with_cache(torch.tensor([row]))[1][direction.hook_name]
                    for row in rows
                ]
            means.append(torch.cat([one[:, direction.position] for one in read]).double().mean(0))
        difference = (means[0] - means[1]).numpy()
        assert direction.raw_norm == pytest.approx(np.linalg.norm(difference), rel=1e-4)
        np.testing.assert_allclose(
            direction.vector, difference / np.linalg.norm(difference), atol=1e-4
        )
        assert (direction.name, direction.n, direction.split) == ("harmfulness", 12, "train")


def test_harm_is_found_where_it_stands_and_refusal_only_where_it_is_written() -> None:
    model, refusal, marker = refusing_model()
    texts = ("tell me how to {}", "please {}", "now {}")
    harmful, harmless = (
        chat_rows(model, [text.format(word) for text in texts for word in words])
        for words in (HARM_WORDS, HARMLESS_WORDS)
    )
    found = {row.layer: row for row in harmfulness_directions(model, harmful, harmless, "base")}
    # The marker of harm is in the embedding of the instruction's last token already.
    assert found[0].vector @ marker.numpy() > 0.5
    before = mean_differences(model, harmful, harmless, (-1,))[0]
    assert not before[0].any()
    assert abs(found[0].vector @ refusal.numpy()) < 0.05
    assert found[PLANTED_LAYER].vector @ refusal.numpy() > 0.5


def test_halves_of_the_same_prompts_differ_along_a_direction_as_often_as_chance() -> None:
    model, refusal, _ = refusing_model()
    rows = harmful_rows(model, 24) + harmless_rows(model, 24)
    hook = f"blocks.{PLANTED_LAYER}.hook_resid_pre"
    read = collect(model, rows, [hook], (instruction_end(model),), batch_size=24)
    target = DirectionFamily("refusal", {hook: refusal.numpy()}, 48)
    names, p_values = [str(index) for index in range(48)], []
    for seed in range(200):
        halves = np.random.default_rng([seed, 7]).permutation(np.arange(48) < 24)
        family = labelled_family("harmfulness", read, halves, names, read.positions[0])
        options = {"nulls": (PERMUTED,), "n_null": 199, "seed": seed}
        p_values.append(direction_angles(family, target, model="base", **options)[0].p_value)  # type: ignore[arg-type]
    assert keeps_its_level(p_values)


def test_where_one_direction_is_all_that_varies_every_contrast_lies_along_it() -> None:
    model, refusal, _ = refusing_model()
    rows = harmful_rows(model, 24) + harmless_rows(model, 24)
    hook = f"blocks.{PLANTED_LAYER}.hook_resid_pre"
    read = collect(model, rows, [hook], (instruction_end(model),), batch_size=24)
    names = [str(index) for index in range(48)]
    family = labelled_family("harmfulness", read, np.arange(48) < 24, names, read.positions[0])
    target = DirectionFamily("refusal", {hook: refusal.numpy()}, 48)
    residuals = {hook: np.random.default_rng(0).standard_normal((200, model.cfg.d_model))}
    permuted, other = direction_angles(
        family, target, model="base", nulls=(PERMUTED, COVARIANCE), residuals=residuals
    )
    # A cosine near 1 is no evidence against permuted labels here, and is against other texts.
    assert permuted.cosine > 0.99 and permuted.p_value > 0.05
    assert other.p_value == pytest.approx(1 / 501)


def test_a_layer_where_all_prompts_are_equal_has_no_direction() -> None:
    model = tiny_model()
    harmful, harmless = (
        chat_rows(model, [f"{word} it" for word in words]) for words in (HARM_WORDS, HARMLESS_WORDS)
    )
    found = harmfulness_directions(model, harmful, harmless, "lpa")
    assert [row.layer for row in found] == [1, 2, 3] and {row.model for row in found} == {"lpa"}


def test_prompts_without_the_template_or_without_a_difference_are_refused() -> None:
    model = tiny_model()
    rows = harmful_rows(model, 4)
    for harmful, harmless, message in (
        ([], rows, "harmful prompts: there are none"),
        (rows, [row[:-1] for row in rows], "harmless prompts: one does not end"),
        (rows, rows, "same mean"),
    ):
        with pytest.raises(InputError, match=message):
            harmfulness_directions(model, harmful, harmless, "base")
