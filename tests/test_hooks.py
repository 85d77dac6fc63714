from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lpa_interp.config import PUBLISHED_SITES
from lpa_interp.errors import InputError
from lpa_interp.hooks import (
    HookFunction,
    ablate,
    ablation,
    add,
    layer_of,
    perturb,
    require_d_model,
    resolve_hooks,
)
from tests.tiny import tiny_model

UNIT = torch.nn.functional.normalize(
    torch.randn(32, generator=torch.Generator().manual_seed(0)), dim=0
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("hook_embed", ["hook_embed"]),
        ("blocks.2.hook_mlp_out", ["blocks.2.hook_mlp_out"]),
        ("blocks.{0,3}.hook_resid_pre", ["blocks.0.hook_resid_pre", "blocks.3.hook_resid_pre"]),
        ("blocks.{0.25,0.5}.hook_mlp_out", ["blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out"]),
        ("blocks.{1.0}.hook_mlp_out", ["blocks.3.hook_mlp_out"]),
        ("blocks.{0.0}.hook_mlp_out", ["blocks.0.hook_mlp_out"]),
        ("blocks.*.hook_mlp_out", [f"blocks.{layer}.hook_mlp_out" for layer in range(4)]),
        ("blocks.3.hook_resid_p*", ["blocks.3.hook_resid_pre", "blocks.3.hook_resid_post"]),
    ],
)
def test_patterns_stand_for_hook_points(pattern: str, expected: list[str]) -> None:
    assert resolve_hooks(tiny_model(), [pattern]) == expected


def test_hook_points_come_in_network_order_without_repeats() -> None:
    names = resolve_hooks(
        tiny_model(), ["blocks.{3}.hook_mlp_out", "blocks.*.hook_mlp_out", "hook_embed"]
    )
    assert names == ["hook_embed", *(f"blocks.{layer}.hook_mlp_out" for layer in range(4))]


def test_the_published_sites_are_layers_8_16_24_and_30_of_32() -> None:
    names = resolve_hooks(tiny_model(n_layers=32), PUBLISHED_SITES)
    assert [layer_of(name) for name in names] == [-1, 8, 16, 24, 30]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("blocks.{4}.hook_mlp_out", "layer 4 is out of range"),
        ("blocks.4.hook_mlp_out", "layers 0 to 3"),
        ("blocks.{-1}.hook_mlp_out", "out of range"),
        ("blocks.{1.5}.hook_mlp_out", "out of range"),
        ("blocks.{nan}.hook_mlp_out", "is not a layer"),
        ("blocks.{inf}.hook_mlp_out", "is not a layer"),
        ("blocks.{last}.hook_mlp_out", "is not a layer"),
        ("blocks.{1,}.hook_mlp_out", "is not a layer"),
        ("blocks.1.hook_nothing", "no such hook point"),
        ("", "no such hook point"),
    ],
)
def test_a_pattern_without_hook_point_says_what_is_allowed(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_hooks(tiny_model(), [pattern])


@pytest.mark.parametrize(
    "site", ["attn.hook_q", "attn.hook_z", "attn.hook_pattern", "mlp.hook_post"]
)
def test_hook_points_that_do_not_carry_d_model_are_refused(site: str) -> None:
    with pytest.raises(InputError, match="does not carry d_model"):
        require_d_model(["hook_embed", f"blocks.0.{site}"])


def test_accepted_hook_points_carry_d_model() -> None:
    model = tiny_model()
    names = resolve_hooks(model, ["hook_embed", "blocks.*.hook_resid_*", "blocks.*.hook_*_out"])
    require_d_model(names)
    _, cache = model.run_with_cache(torch.tensor([[5, 6, 7]]))
    assert {cache[name].shape for name in names} == {(1, 3, model.cfg.d_model)}


@pytest.mark.parametrize(
    "make", [lambda: ablate(UNIT), lambda: add(UNIT), lambda: perturb(torch.ones(2, 3, 32))]
)
def test_hook_functions_never_write_into_their_argument(
    make: Callable[[], HookFunction],
) -> None:
    activation = torch.randn(2, 3, 32)
    before = activation.clone()
    result = make()(activation)
    assert torch.equal(activation, before)
    assert not torch.equal(result, before)
    assert result.data_ptr() != activation.data_ptr()


def test_ablation_leaves_no_component_and_nothing_else_changes() -> None:
    activation = torch.randn(2, 3, 32)
    result = ablate(UNIT)(activation)
    assert (result @ UNIT).abs().max() < 1e-5
    rest = activation - (activation @ UNIT)[..., None] * UNIT
    assert torch.allclose(result, rest)
    assert torch.allclose(ablate(UNIT)(result), result, atol=1e-6)


@pytest.mark.parametrize("function", [ablate(UNIT), add(UNIT), perturb(torch.ones(1, 1, 32))])
def test_hook_functions_keep_the_dtype_of_the_activation(function: HookFunction) -> None:
    activation = torch.randn(2, 3, 32, dtype=torch.bfloat16)
    assert function(activation).dtype == torch.bfloat16


def test_a_perturbation_adds_its_own_vector_to_each_token() -> None:
    activation, delta = torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    assert torch.equal(perturb(delta)(activation), activation + delta)
    assert torch.equal(add(UNIT)(activation), activation + UNIT)


def test_a_direction_cut_everywhere_is_gone_from_the_residual_stream() -> None:
    model = tiny_model()
    tokens = torch.tensor([[5, 6, 7, 8]])
    direction = 3 * UNIT  # any length: it is normalised
    found: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: object = None) -> Tensor:
        found["last"] = activation
        return activation

    def last_component() -> float:
        with model.hooks(fwd_hooks=[("blocks.3.hook_resid_post", keep)]):
            model(tokens)
        return float((found["last"] @ UNIT).abs().max())

    assert last_component() > 1e-2
    with model.hooks(fwd_hooks=ablation(model, direction)):
        assert last_component() < 1e-5
    assert last_component() > 1e-2  # the hooks are gone


def test_the_embedding_is_before_the_first_layer() -> None:
    assert layer_of("hook_embed") == -1
    assert layer_of("blocks.12.hook_mlp_out") == 12
