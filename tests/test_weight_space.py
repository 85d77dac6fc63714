from __future__ import annotations

import numpy as np
import pytest
import torch
from statsmodels.stats.multitest import multipletests

from lpa_interp.errors import InputError, NumericalError
from lpa_interp.lora import LoraAdapter, attach_lora, join_heads
from lpa_interp.model import HookedTransformer
from lpa_interp.records import WeightAlignment
from probes.nulls import COVARIANCE, RANDOM, unit_rows
from probes.weight_space import SIDES, update_directions, weight_alignments
from tests.levels import false_positive_rate, keeps_its_level
from tests.tiny import tiny_model

ROLES = tuple(SIDES)
D_MODEL = 32
SCALES = np.where(np.arange(D_MODEL) < 2, 10.0, 0.3)


def adapted(
    kind: str = "llama", roles: tuple[str, ...] = ROLES, rank: int = 3, n_layers: int = 2
) -> tuple[HookedTransformer, LoraAdapter]:
    """A tiny model with a random update of each weight."""
    model = tiny_model(kind=kind, n_layers=n_layers)
    adapter = attach_lora(model, roles, rank=rank, alpha=6, seed=0)
    randomise(adapter, 1)
    return model, adapter


def randomise(adapter: LoraAdapter, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def everywhere(vector: np.ndarray, n_layers: int = 2) -> dict[int, np.ndarray]:
    return dict.fromkeys(range(n_layers), vector)


def seen_from_the_residual_stream(
    model: HookedTransformer, adapter: LoraAdapter, layer: int, role: str
) -> np.ndarray:
    """The whole update [d_model, other side], with the norm between it and the stream."""
    joined = join_heads(adapter.updates[layer, role].delta(), role).detach().double().numpy()
    block = model.blocks[layer]
    if SIDES[role] == "writes":
        post = getattr(block, "ln1_post" if role == "o" else "ln2_post", None)
        return joined.T if post is None else post.w.double().numpy()[:, None] * joined.T
    norm = block.ln1 if role in ("q", "k", "v") else block.ln2
    seen = norm.w.double().numpy()[:, None] * joined
    if model.cfg.normalization_type == "LN":
        seen = (np.eye(len(seen)) - 1 / len(seen)) @ seen
    return np.asarray(seen)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_shares_and_singular_values_are_those_of_the_full_matrices(kind: str) -> None:
    roles = ROLES if kind != "gpt2" else tuple(role for role in ROLES if role != "gate")
    model, adapter = adapted(kind, roles)
    basis = np.random.default_rng(0).standard_normal((2, D_MODEL))
    rows = weight_alignments(
        model,
        adapter,
        {"trait": everywhere(basis[0]), "both": everywhere(basis)},
        nulls=(RANDOM,),
        n_null=19,
    )
    found = {(row.layer, row.role, row.direction): row for row in rows}
    assert len(found) == len(rows) == 2 * 2 * len(roles)
    updates = {(one.layer, one.role): one for one in update_directions(model, adapter)}
    orthonormal = np.linalg.qr(basis.T)[0]
    for (layer, role), update in updates.items():
        whole = seen_from_the_residual_stream(model, adapter, layer, role)
        left, sizes, _ = np.linalg.svd(whole, full_matrices=False)
        np.testing.assert_allclose(update.sizes, sizes[:3], rtol=1e-5)
        np.testing.assert_allclose(np.abs((update.vectors * left.T[:3]).sum(1)), 1, atol=1e-4)
        total = np.linalg.norm(whole) ** 2
        one, both = found[layer, role, "trait"], found[layer, role, "both"]
        unit = basis[0] / np.linalg.norm(basis[0])
        assert one.share == pytest.approx(np.linalg.norm(unit @ whole) ** 2 / total, rel=1e-5)
        inside = np.linalg.norm(orthonormal.T @ whole) ** 2 / total
        assert both.share == pytest.approx(inside, rel=1e-5)
        assert (one.expected, both.expected) == (1 / D_MODEL, 2 / D_MODEL)
        assert (one.k, both.k, one.rank, one.side) == (1, 2, 3, SIDES[role])
        assert one.top_singular_share == pytest.approx(sizes[0] ** 2 / total, rel=1e-5)


def test_an_update_along_a_known_direction_is_found_in_its_weight_only() -> None:
    model, adapter = adapted()
    planted = torch.from_numpy(unit_rows(np.random.default_rng(3).standard_normal((1, D_MODEL)))[0])
    with torch.no_grad():
        down, query = adapter.updates[1, "down"], adapter.updates[0, "q"]
        down.b.copy_(torch.outer(planted.float(), torch.tensor([1.0, 2.0, -1.0])))
        gain = model.blocks[0].ln1.w
        query.a.copy_(torch.outer(torch.tensor([1.0, 1.0, 3.0]), planted.float() / gain))
    residuals = everywhere(np.random.default_rng(4).standard_normal((200, D_MODEL)))
    rows = weight_alignments(
        model, adapter, {"trait": everywhere(planted.numpy())}, residuals=residuals
    )
    hits = {(row.layer, row.role) for row in rows if row.share > 0.99}
    assert hits == {(1, "down"), (0, "q")}
    for row in rows:
        if (row.layer, row.role) in hits:
            assert row.p_value == pytest.approx(2 / 501) and row.p_adjusted < 0.05
            assert row.top_singular_share == pytest.approx(1, abs=1e-4)
        else:
            assert row.p_adjusted > 0.05 and row.share < 0.3


def test_a_residual_stream_without_what_is_read_gives_no_output() -> None:
    model, adapter = adapted(roles=("v",))
    update = next(one for one in update_directions(model, adapter) if one.layer == 0)
    stream = torch.randn(1, 5, D_MODEL)
    basis = torch.from_numpy(update.vectors).float()
    without = stream - (stream @ basis.T) @ basis
    delta = adapter.updates[0, "v"].delta()
    outputs = [
        torch.einsum("bpm,nmh->bpnh", model.blocks[0].ln1(resid), delta)
        for resid in (stream, without)
    ]
    assert outputs[1].abs().max() < 1e-4 * outputs[0].abs().max()


def update_p(
    model: HookedTransformer, adapter: LoraAdapter, seed: int
) -> dict[str, WeightAlignment]:
    """Of an update in the largest direction, and a direction drawn as activations are."""
    rng = np.random.default_rng(seed)
    randomise(adapter, seed)
    with torch.no_grad():
        adapter.updates[0, "down"].b[:2] *= 20
    rows = weight_alignments(
        model,
        adapter,
        {"trait": {0: rng.standard_normal(D_MODEL) * SCALES}},
        residuals={0: rng.standard_normal((300, D_MODEL)) * SCALES},
        n_null=199,
        seed=seed,
    )
    return {row.null: row for row in rows}


def test_unrelated_updates_and_directions_align_as_often_as_the_covariance_null_says() -> None:
    model, adapter = adapted(roles=("down",), n_layers=1)
    found = [update_p(model, adapter, seed) for seed in range(200)]
    assert keeps_its_level([row[COVARIANCE].p_value for row in found])
    assert false_positive_rate([row[RANDOM].p_value for row in found]) > 0.5


def test_random_directions_align_as_often_as_the_isotropic_null_says() -> None:
    model, adapter = adapted(roles=("o",), n_layers=1)
    p_values = []
    for seed in range(200):
        randomise(adapter, seed)
        vector = np.random.default_rng(seed).standard_normal(D_MODEL)
        options = {"nulls": (RANDOM,), "n_null": 199, "seed": seed}
        rows = weight_alignments(model, adapter, {"trait": {0: vector}}, **options)  # type: ignore[arg-type]
        p_values.append(rows[0].p_value)
    assert keeps_its_level(p_values)


def test_p_is_adjusted_over_layers_and_roles_of_one_direction() -> None:
    model, adapter = adapted()
    directions = {
        name: everywhere(np.random.default_rng(seed).standard_normal(D_MODEL))
        for seed, name in enumerate(("trait", "refusal"))
    }
    rows = weight_alignments(model, adapter, directions, nulls=(RANDOM,), n_null=99)
    for name in directions:
        own = [row for row in rows if row.direction == name]
        expected = multipletests([row.p_value for row in own], method="fdr_bh")[1]
        assert len(own) == 14
        assert [row.p_adjusted for row in own] == pytest.approx(list(expected))
    part = weight_alignments(
        model, adapter, {"trait": {1: directions["trait"][1]}}, nulls=(RANDOM,)
    )
    assert {row.layer for row in part} == {1} and len(part) == 7


def test_untrained_and_broken_updates_and_missing_layers_are_refused() -> None:
    model, adapter = adapted(roles=("o",))
    vector = np.ones(D_MODEL)
    for options, message in (
        ({"directions": {"trait": {7: vector}}}, "at no layer"),
        ({"directions": {"trait": {0: vector * 0}}}, "dependent"),
        ({"directions": {"trait": {0: vector}}, "nulls": (COVARIANCE,)}, "needs activations"),
        ({"directions": {"trait": {0: vector}}, "residuals": {1: np.eye(32)}}, "at 0"),
    ):
        with pytest.raises(InputError, match=message):
            weight_alignments(model, adapter, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        adapter.updates[1, "o"].b.zero_()
    with pytest.raises(InputError, match="is zero"):
        update_directions(model, adapter)
    with torch.no_grad():
        adapter.updates[1, "o"].b.fill_(torch.nan)
    with pytest.raises(NumericalError, match="NaN"):
        update_directions(model, adapter)
