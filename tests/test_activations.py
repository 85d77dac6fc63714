from __future__ import annotations

import numpy as np
import pytest
import torch

from lpa_interp.errors import InputError, NumericalError
from probes.activations import COMPLETION_MEAN, collect, collect_completions
from tests.planted import harmful_rows
from tests.tiny import tiny_model

HOOKS = [
    "hook_embed",
    "blocks.1.hook_resid_pre",
    "blocks.*.hook_mlp_out",
    "blocks.2.hook_resid_post",
]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_activations_equal_those_of_run_with_cache_on_single_prompts(kind: str) -> None:
    model = tiny_model(kind=kind)
    rows = harmful_rows(model, 6)
    positions = (-4, -1)
    found = collect(model, rows, HOOKS, positions, batch_size=4)
    for index, row in enumerate(rows):
        tokens = torch.tensor([row])
        _, cache = model.run_with_cache(tokens, attention_mask=torch.ones_like(tokens))
        for name in found.hook_names:
            expected = cache[name][0, list(positions)].numpy()
            np.testing.assert_allclose(found.values[name][index], expected, atol=1e-4, rtol=1e-4)


def test_activations_do_not_depend_on_the_batch_size_and_keep_the_order_of_rows() -> None:
    model = tiny_model()
    rows = harmful_rows(model, 7)
    one, all_of_them = (collect(model, rows, HOOKS, (-2, -1), size) for size in (1, 7))
    for name in one.hook_names:
        np.testing.assert_allclose(one.values[name], all_of_them.values[name], atol=1e-5)


def test_hook_points_come_in_network_order_and_as_read_only_float32() -> None:
    model = tiny_model()
    found = collect(model, harmful_rows(model, 3), reversed_hooks := HOOKS[::-1])
    assert list(found.hook_names) == [name for name in model.hook_dict if name in found.values]
    assert len(found.hook_names) == model.cfg.n_layers + 3 > len(reversed_hooks)
    array = found.at("hook_embed")
    assert array.dtype == np.float32 and array.shape == (3, model.cfg.d_model)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_layers_above_the_last_hook_point_are_not_run() -> None:
    model = tiny_model()
    model.blocks[2].mlp.W_out.data.fill_(float("nan"))
    rows = harmful_rows(model, 2)
    assert collect(model, rows, ["blocks.1.hook_resid_post"]).n == 2
    with pytest.raises(NumericalError, match=r"blocks\.2\.hook_resid_post"):
        collect(model, rows, ["blocks.2.hook_resid_post"])


def test_means_keep_digits_that_float32_would_lose() -> None:
    model = tiny_model()
    rows = harmful_rows(model, 12)
    found = collect(model, rows, ["hook_embed"])
    assert found.means("hook_embed").dtype == np.float64
    expected = found.values["hook_embed"].astype(np.float64).mean(axis=0)
    np.testing.assert_array_equal(found.means("hook_embed"), expected)
    part = found.select([3, 1])
    np.testing.assert_array_equal(part.at("hook_embed"), found.at("hook_embed")[[3, 1]])


@pytest.mark.parametrize(
    ("rows", "hooks", "positions", "message"),
    [
        ([], ["hook_embed"], (-1,), "no prompts"),
        ([[1, 2, 3]], ["hook_embed"], (0,), "out of range"),
        ([[1, 2, 3]], ["hook_embed"], (-4,), "shortest row has 3"),
        ([[1, 2, 3]], ["hook_embed"], (-1, -1), "different"),
        ([[1, 2, 3]], ["blocks.9.hook_mlp_out"], (-1,), "out of range"),
        ([[1, 2, 3]], ["blocks.0.attn.hook_q"], (-1,), "does not carry d_model"),
    ],
)
def test_bad_requests_are_refused_with_what_is_allowed(
    rows: list[list[int]], hooks: list[str], positions: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        collect(tiny_model(), rows, hooks, positions)
    found = collect(tiny_model(), [[1, 2, 3]], ["hook_embed"])
    with pytest.raises(InputError, match="not collected"):
        found.at("hook_embed", -2)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_completion_means_equal_those_of_single_texts(kind: str) -> None:
    model = tiny_model(kind=kind)
    prompts = harmful_rows(model, 5)
    answers = [prompts[index][: index + 2] for index in range(5)]
    found = collect_completions(model, prompts, answers, HOOKS, batch_size=3)
    assert found.positions == (COMPLETION_MEAN,) and found.values["hook_embed"].dtype == np.float32
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens = torch.tensor([prompt + answer])
        _, cache = model.run_with_cache(tokens, attention_mask=torch.ones_like(tokens))
        for name in found.hook_names:
            expected = cache[name][0, -len(answer) :].double().mean(0).numpy()
            read = found.at(name, COMPLETION_MEAN)[index]
            np.testing.assert_allclose(read, expected, atol=1e-4, rtol=1e-4)


def test_completion_means_need_one_pass_per_batch_and_no_layer_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model()
    model.blocks[2].mlp.W_out.data.fill_(float("nan"))
    calls = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    rows = harmful_rows(model, 6)
    collect_completions(model, rows, rows, HOOKS[:2], 4)
    assert len(calls) == 2
    with pytest.raises(NumericalError, match=r"blocks\.2\.hook_resid_post"):
        collect_completions(model, rows, rows, ["blocks.2.hook_resid_post"])


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        ([], [], "one or more"),
        ([[1]], [[1], [2]], "2 completions for 1 prompts"),
        ([[1], [2]], [[1], []], "text 1: its completion is empty"),
        ([[]], [[1]], "text 0: its prompt is empty"),
        ([[1] * 200], [[1] * 57], "has 257 tokens"),
    ],
)
def test_bad_completions_are_refused(
    prompts: list[list[int]], answers: list[list[int]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        collect_completions(tiny_model(), prompts, answers, ["hook_embed"])
