from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lpa_interp.chat import chat_rows, format_chat, post_instruction_row, tokenize, tokenizer_of
from lpa_interp.config import FeatureConfig
from lpa_interp.errors import InputError
from lpa_interp.model import HookedTransformer
from lpa_interp.records import FeatureShift
from probes.features import load_pretrained, load_sae, packed_contexts, sae_hook, train_sae
from probes.sae_reading import content_features, content_spans, sae_quality
from probes.shifts import feature_overlaps, feature_shifts
from tests.planted import HARM_WORDS, HARMLESS_WORDS, harmful_rows, harmless_rows
from tests.tiny import tiny_model

HOOK = "blocks.1.hook_resid_post"
CONFIG = FeatureConfig(
    hook_name=HOOK, n_features=64, k=8, training_tokens=32768, context_size=32, learning_rate=3e-3
)


def texts(model: HookedTransformer) -> list[str]:
    words = [first + " " + second for first in HARM_WORDS for second in HARMLESS_WORDS]
    return [format_chat(model, word) for word in words]


class ExactSae:
    """Stands in for a SAELens SAE: 2 d_model features that reconstruct exactly, or nothing."""

    dtype = torch.float32

    def __init__(self, d_model: int, hook_name: str = HOOK, gain: float = 1.0) -> None:
        metadata = SimpleNamespace(hook_name=hook_name, n_training_tokens=None)
        self.cfg = SimpleNamespace(d_sae=2 * d_model, d_in=d_model, metadata=metadata)
        self.gain = gain

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, -x], dim=-1).relu()

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        positive, negative = features.chunk(2, dim=-1)
        return self.gain * (positive - negative)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


@pytest.mark.slow
def test_a_sae_trained_here_explains_held_out_activations_and_is_found_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    state = torch.random.get_rng_state()
    folder = tmp_path / "sae"
    sae = train_sae(model, texts(model), CONFIG, seed=0, model_key="tiny", folder=folder)
    assert capsys.readouterr().out == ""
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {path.name for path in folder.iterdir()} >= {"cfg.json", "sae_weights.safetensors"}
    quality = sae_quality(model, sae, harmful_rows(model), "base", "tiny")
    assert quality.variance_explained > 0.5 and 0 < quality.l0 <= 8
    assert (quality.n_features, quality.n_training_tokens) == (64, 32768)
    stamp = (folder / "cfg.json").stat().st_mtime_ns
    again = train_sae(model, [], CONFIG, seed=0, model_key="tiny", folder=folder)
    assert (folder / "cfg.json").stat().st_mtime_ns == stamp
    x = torch.randn(5, model.cfg.d_model)
    torch.testing.assert_close(sae.encode(x), again.encode(x))
    # Another model needs its own quality row: there the same SAE explains less.
    other = sae_quality(tiny_model(seed=9), sae, harmful_rows(model), "lpa", "tiny")
    assert other.variance_explained < quality.variance_explained


def test_a_perfect_sae_changes_nothing_and_an_empty_one_equals_zero_ablation() -> None:
    model = tiny_model()
    rows = harmful_rows(model, 6)
    perfect = sae_quality(model, ExactSae(32), rows, "base", "exact", batch_size=4)
    assert perfect.variance_explained == pytest.approx(1, abs=1e-6)
    assert perfect.ce_sae == pytest.approx(perfect.ce_clean, abs=1e-5)
    assert perfect.l0 == 32 and perfect.n_training_tokens == 0
    assert perfect.n_tokens == sum(len(row) - 1 for row in rows)
    nothing = sae_quality(model, ExactSae(32, gain=0.0), rows, "base", "empty", batch_size=4)
    assert nothing.variance_explained <= 0
    assert nothing.ce_sae == pytest.approx(nothing.ce_zero, abs=1e-6)
    assert nothing.ce_zero != pytest.approx(nothing.ce_clean, abs=1e-3)
    one_by_one = sae_quality(model, ExactSae(32, gain=0.0), rows, "base", "empty", batch_size=1)
    assert one_by_one.ce_zero == pytest.approx(nothing.ce_zero, abs=1e-5)


def test_clean_cross_entropy_is_that_of_the_plain_model_without_the_first_position() -> None:
    model = tiny_model()
    rows = harmful_rows(model, 4)
    quality = sae_quality(model, ExactSae(32), rows, "base", "exact")
    losses = []
    for row in rows:
        tokens = torch.tensor([row])
        with torch.no_grad():
            logits = model(tokens, attention_mask=torch.ones_like(tokens))[0]
        losses.append(
            torch.nn.functional.cross_entropy(logits[1:-1], tokens[0, 2:], reduction="none")
        )
    assert quality.ce_clean == pytest.approx(torch.cat(losses).mean().item(), abs=1e-4)


def test_features_are_means_over_the_content_tokens_alone() -> None:
    model = tiny_model()
    rows = [*harmful_rows(model, 5), *harmless_rows(model, 5)]
    found = content_features(model, ExactSae(32), rows, batch_size=3)
    ending = post_instruction_row(model)
    spans = content_spans(model, rows)
    assert all(row[end:] == ending for row, (_, end) in zip(rows, spans, strict=True))
    assert len({tuple(row[:start]) for row, (start, _) in zip(rows, spans, strict=True)}) == 1
    for row, (start, end), values in zip(rows, spans, found, strict=True):
        tokens = torch.tensor([row])
        _, cache = model.run_with_cache(tokens, attention_mask=torch.ones_like(tokens))
        expected = ExactSae(32).encode(cache[HOOK][0, start:end]).mean(0)
        np.testing.assert_allclose(values, expected.numpy(), atol=1e-4)
    for bad in ([], [rows[0], rows[1][:-1]]):
        with pytest.raises(InputError):
            content_features(model, ExactSae(32), bad)


@pytest.mark.parametrize("system", [None, "You are a pirate."])
def test_content_is_the_users_text_whatever_the_other_prompts_are(system: str | None) -> None:
    model = tiny_model()
    rows = chat_rows(model, ["open the lock", "open the mat"], system)
    for chosen in (rows, rows[:1]):
        start, end = content_spans(model, chosen)[0]
        assert tokenizer_of(model).decode(rows[0][start:end]) == "open the lock"


def test_a_sae_of_another_model_is_refused() -> None:
    model = tiny_model()
    for sae, message in (
        (ExactSae(16), "d_in 16"),
        (ExactSae(32, "blocks.9.hook_resid_post"), "no such hook"),
    ):
        with pytest.raises(InputError, match=message):
            sae_quality(model, sae, harmful_rows(model, 2), "base", "x")


def test_contexts_are_full_and_begin_where_a_text_begins() -> None:
    model = tiny_model()
    rows = [tokenize(model, text) for text in texts(model)]
    contexts = packed_contexts(model, texts(model), 40, seed=0)
    assert {len(row) for row in contexts} == {40}
    starts = {tuple(row[:12]) for row in rows}
    assert all(tuple(row[:12]) in starts for row in contexts)
    assert packed_contexts(model, texts(model), 40, seed=0) == contexts
    assert packed_contexts(model, texts(model), 40, seed=1) != contexts
    (long,) = (tokenize(model, " ".join(HARM_WORDS * 4)),)
    pieces = packed_contexts(model, [" ".join(HARM_WORDS * 4)], 16, seed=0)
    bos = tokenizer_of(model).bos_token_id
    assert pieces[0] == long[:16] and pieces[1] == [bos, *long[16:31]]
    with pytest.raises(InputError, match="too few"):
        packed_contexts(model, ["one"], 32, seed=0)


def test_mistakes_about_a_sae_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than one hook point"):
        sae_hook(tiny_model(), "blocks.*.hook_resid_post")
    with pytest.raises(InputError, match="does not hold a SAE"):
        load_sae(tmp_path)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_pretrained("no-such-release", "no-such-id")


def sides(seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    first, second = (np.maximum(rng.standard_normal((30, 40)), 0) for _ in range(2))
    first[:, 7] += shift
    first[:, 0] = second[:, 0] = 0
    return first, second


def shifts(first: np.ndarray, second: np.ndarray, **options: Any) -> list[FeatureShift]:
    options = {"contrast": "requests", "n_permutations": 199} | options
    return feature_shifts(first, second, model="base", hook_name=HOOK, **options)


@pytest.mark.parametrize("paired", [False, True])
def test_a_planted_feature_ranks_first_and_survives_the_correction(paired: bool) -> None:
    first, second = sides(0, shift=3.0)
    rows = shifts(first, second, paired=paired, top_k=5)
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0].feature == 7 and rows[0].effect > 2 and rows[0].p_value == 1 / 200
    assert rows[0].p_adjusted <= 0.5
    assert rows[0].mean_first - rows[0].mean_second == pytest.approx(3, abs=0.6)
    swapped = shifts(second, first, paired=paired, top_k=5)
    assert swapped[0].effect == pytest.approx(-rows[0].effect)


@pytest.mark.parametrize("paired", [False, True])
def test_p_values_of_features_that_do_not_differ_are_uniform(paired: bool) -> None:
    p_values = [
        row.p_value
        for seed in range(25)
        for row in shifts(*sides(seed), paired=paired, top_k=40, seed=seed)
    ]
    assert len(p_values) == 25 * 39  # the feature that is never active is not tested
    assert 0.025 < np.mean(np.array(p_values) <= 0.05) < 0.08
    assert 0.44 < np.mean(np.array(p_values) <= 0.5) < 0.56


def test_facets_are_permuted_as_blocks() -> None:
    """Features that differ between facets, not between sides."""
    found: dict[str, list[float]] = {"facet": [], "statement": []}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values = np.repeat(rng.random((16, 40)), 6, axis=0) + 0.01 * rng.random((96, 40))
        names = [str(index // 6) for index in range(96)]
        one, two = values[:48], values[48:]
        rows = shifts(one, two, groups=(names[:48], names[48:]), top_k=40, seed=seed)
        found["facet"] += [row.p_value for row in rows]
        found["statement"] += [row.p_value for row in shifts(one, two, top_k=40, seed=seed)]
    rates = {name: np.mean(np.array(values) <= 0.05) for name, values in found.items()}
    assert rates["facet"] < 0.08 and rates["statement"] > 0.3


def test_silent_features_give_no_rows_and_unequal_pairs_are_refused() -> None:
    assert shifts(np.zeros((3, 4)), np.zeros((3, 4))) == []
    with pytest.raises(InputError, match="3 and 2 prompts"):
        shifts(np.ones((3, 4)), np.ones((2, 4)), paired=True)


def test_overlaps_are_compared_with_sets_drawn_at_random() -> None:
    first, second = sides(0, shift=3.0)
    one = shifts(first, second, contrast="traits", top_k=10)
    two = shifts(first, second, contrast="requests", top_k=10)
    (same,) = feature_overlaps([*one, *two], n_active=40)
    assert (same.shared, same.top_k, same.expected) == (10, 10, 2.5)
    assert same.p_value == pytest.approx(1 / 847660528)  # 1 / (40 choose 10)
    rng = np.random.default_rng(0)
    drawn = [
        feature_overlaps([*relabelled(one, rng), *relabelled(two, rng)], 40)[0] for _ in range(200)
    ]
    assert np.mean([row.shared for row in drawn]) == pytest.approx(2.5, abs=0.6)
    assert np.mean([row.p_value <= 0.05 for row in drawn]) < 0.12
    with pytest.raises(InputError, match="differ in their number"):
        feature_overlaps([*one, *two[:4]], 40)


def relabelled(rows: list[FeatureShift], rng: np.random.Generator) -> list[FeatureShift]:
    """The rows with features drawn at random."""
    features = rng.permutation(40)[: len(rows)]
    return [replace(row, feature=int(new)) for row, new in zip(rows, features, strict=True)]
