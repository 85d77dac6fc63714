from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom

from experiments.plain_refusal import divergence, log_odds
from lpa_interp.errors import InputError
from lpa_interp.judges import refusal_token_ids
from lpa_interp.records import MediatedShare
from lpa_interp.runs import read_rows, write_rows
from probes.activations import collect
from probes.causal_share import SideScores, SubspaceScores, mediated_shares, refusal_scores
from probes.controls import NamedSubspace, named_subspace, with_controls
from probes.scoring import score_ablations
from tests.planted import PlantedPair, harmful_rows, harmless_rows, planted_pair
from tests.tiny import tiny_model

HOOK_NAME = "blocks.3.hook_resid_pre"


def shares(
    pair: PlantedPair, base_ablated: bool = True
) -> dict[tuple[str, str, str], MediatedShare]:
    """Rows of a planted pair by what was ablated, what it controls, and side."""
    rows = {"harmful": harmful_rows(pair.base, 12), "harmless": harmless_rows(pair.base, 12)}
    residuals = collect(pair.trained, rows["harmful"], [HOOK_NAME]).at(HOOK_NAME)
    vectors = {"trait": pair.trait, "refusal": pair.refusal, "absent": pair.absent}
    named = [named_subspace(name, vector.numpy()) for name, vector in vectors.items()]
    subspaces = with_controls(named, residuals, n_random=4)
    before = refusal_scores(pair.base, rows, subspaces if base_ablated else [], hook_name=HOOK_NAME)
    after = refusal_scores(pair.trained, rows, subspaces, hook_name=HOOK_NAME)
    found = mediated_shares(before, after, n_resamples=1000)
    return {(row.ablated, row.control_of, row.side): row for row in found}


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_the_share_that_flows_through_the_trait_is_found_whatever_the_angle(share: float) -> None:
    pair = planted_pair(share, cosine=0.6)
    assert (pair.trait @ pair.refusal).item() == pytest.approx(0.6, abs=1e-6)
    found = shares(pair)
    trait, refusal = found["trait", "", "harmful"], found["refusal", "", "harmful"]
    assert trait.gain_low > 2
    assert trait.share == pytest.approx(share, abs=0.03)
    assert trait.net_share == pytest.approx(share, abs=0.03)
    assert trait.drop == pytest.approx(share * trait.gain, abs=0.1)
    # All refusal lies along the refusal direction, also what the base had: twice the gain.
    assert refusal.share == pytest.approx(2, abs=0.05)
    assert found["absent", "", "harmful"].share == pytest.approx(0, abs=0.03)
    # The random controls of a direction are compared on the same prompts.
    for field, name in (("over_random", "random"), ("over_matched", "random_matched")):
        control = found[name, "trait", "harmful"]
        difference = getattr(trait, field)
        assert difference == pytest.approx(trait.share - control.share, abs=1e-9)
        assert getattr(trait, f"{field}_low") < difference < getattr(trait, f"{field}_high")
        assert control.over_random is None and control.n_draws == 4
    assert not any(row.damaged for row in found.values())


def test_only_the_net_share_tells_what_the_base_had_along_the_trait_from_what_was_gained() -> None:
    found = shares(planted_pair(share=0.0, base_on_trait=0.5))["trait", "", "harmful"]
    assert found.share == pytest.approx(0.5, abs=0.05)
    assert found.net_share == pytest.approx(0, abs=0.03)
    alone = shares(planted_pair(share=1.0), base_ablated=False)["trait", "", "harmful"]
    assert alone.share == pytest.approx(1, abs=0.03) and alone.net_share is None


def test_matched_controls_remove_as_much_as_the_subspace_and_harmless_prompts_have_no_share() -> (
    None
):
    found = shares(planted_pair(share=1.0))
    for name in ("trait", "refusal"):
        own, matched, even = (
            found[key, of, "harmful"].removed_norm_share
            for key, of in ((name, ""), ("random_matched", name), ("random", name))
        )
        assert matched == pytest.approx(own, rel=1e-3) and own > 0.1 > even
    harmless = found["trait", "", "harmless"]
    assert harmless.share is harmless.share_low is harmless.over_random is None
    assert "no clear gain" in harmless.reason and harmless.kl == harmless.kl_harmless < 0.01


def test_an_ablation_that_changes_harmless_prompts_is_marked_as_damage() -> None:
    scores = simulated(np.random.default_rng(0), n=20, share=0.5)
    found = mediated_shares(*scores, max_kl=1.0)
    assert [row.damaged for row in found] == [False, False]
    harmless = scores[1].sides["harmless"]
    broken = SubspaceScores(
        scores[1].subspaces,
        {**scores[1].sides, "harmless": replace(harmless, kl=(np.full((1, 20), 1.5),))},
    )
    found = mediated_shares(scores[0], broken, max_kl=1.0)
    assert [row.damaged for row in found] == [True, True]
    assert {row.kl_harmless for row in found} == {1.5} and found[0].kl < 0.5


def test_a_subspace_carries_what_its_directions_carry_and_has_controls_of_its_dimension() -> None:
    pair = planted_pair(share=0.5)
    rows = {"harmful": harmful_rows(pair.base, 8), "harmless": harmless_rows(pair.base, 8)}
    residuals = collect(pair.trained, rows["harmful"], [HOOK_NAME]).at(HOOK_NAME)
    trait = pair.trait.numpy()
    # Any basis of the span will do; one with the refusal direction in it carries everything.
    bases = (trait, np.stack([trait + pair.absent.numpy(), pair.absent.numpy()]))
    named = [named_subspace("trait", vectors) for vectors in bases]
    both = named_subspace("both", np.stack([trait, pair.refusal.numpy()]))
    subspaces = with_controls([*named, both], residuals, n_random=2)
    scores = [
        refusal_scores(model, rows, subspaces, hook_name=HOOK_NAME)
        for model in (pair.base, pair.trained)
    ]
    found = [row for row in mediated_shares(*scores, n_resamples=500) if row.side == "harmful"]
    assert [row.k for row in found] == [1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert [row.share for row in found[0:6:3]] == pytest.approx([0.5, 0.5], abs=0.03)
    assert found[6].net_share == pytest.approx(1, abs=0.05)
    for own, even in ((found[0], found[1]), (found[3], found[4])):
        assert own.over_random == pytest.approx(own.share - even.share)  # type: ignore[operator]


def test_rows_of_shares_survive_a_file(tmp_path: Path) -> None:
    found = mediated_shares(*simulated(np.random.default_rng(0), n=20, share=0.5))
    write_rows(tmp_path / "mediated_shares.jsonl", found)
    assert read_rows(tmp_path / "mediated_shares.jsonl", MediatedShare) == found


def simulated(
    rng: np.random.Generator, n: int, share: float, gain: float = 3.0
) -> tuple[SubspaceScores, SubspaceScores]:
    """Scores of two models as if read from prompts, with a known share of a noisy gain."""
    subspace = NamedSubspace("trait", np.eye(1, 4)[None])
    base = rng.normal(0, 3, n)
    gains = gain + rng.exponential(2.0, n) - 2.0
    drop = share * gains + rng.normal(0, 1, n)
    trained, nothing = base + gains, (np.full((1, n), 0.1),)
    after = SideScores(trained, ((trained - drop)[None],), nothing, (0.1,))
    same = SideScores(base, (base[None],), nothing, (0.1,))
    sides = {"harmful": SideScores(base, (), (), ()), "harmless": SideScores(base, (), (), ())}
    return (
        SubspaceScores((), sides),
        SubspaceScores((subspace,), {"harmful": after, "harmless": same}),
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_intervals_of_the_share_hold_the_truth_at_their_level(share: float) -> None:
    held = 0
    for seed in range(200):
        scores = simulated(np.random.default_rng(seed), n=24, share=share)
        row = mediated_shares(*scores, n_resamples=1000, seed=seed)[0]
        assert row.share_low is not None and row.share_high is not None
        held += row.share_low <= share <= row.share_high
    low, high = binom.ppf([0.001, 0.999], 200, 0.95)
    assert low <= held <= high


def test_a_gain_that_may_be_zero_has_no_share_and_no_share_is_huge() -> None:
    defined = 0
    for seed in range(200):
        scores = simulated(np.random.default_rng(seed), n=24, share=0.5, gain=0.0)
        row = mediated_shares(*scores, n_resamples=1000, seed=seed)[0]
        if row.share is None:
            assert "no clear gain" in row.reason and row.share_high is row.over_matched is None
        else:
            defined += 1
            assert max(abs(row.share_low or 0), abs(row.share_high or 0)) < 20
    # Above zero by chance: half of the 5 % that a two-sided interval leaves out.
    assert defined <= binom.ppf(0.999, 200, 0.025)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_stacked_subspaces_of_several_sizes_score_as_hooks_do(kind: str) -> None:
    model = tiny_model(kind=kind)
    rows, ids = harmful_rows(model, 3), refusal_token_ids(model)
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.standard_normal((32, k)))[0].T for k in (1, 3, 8)]
    padded = [np.pad(basis, ((0, 8 - len(basis)), (0, 0))) for basis in bases]
    stacked = torch.from_numpy(np.stack(padded)).float()
    scores = score_ablations(model, rows, stacked, ids, batch_size=4)
    for index, basis in enumerate(bases):
        plain = torch.from_numpy(basis).float()
        hooks = [
            (f"blocks.{layer}.{site}", lambda x, hook, v=plain: x - x @ v.T @ v)
            for layer in range(model.cfg.n_layers)
            for site in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
        ]
        for place, row in enumerate(rows):
            odds, kl = log_odds(model, row, ids, hooks), divergence(model, row, hooks)
            assert scores.modified[index, place] == pytest.approx(odds, abs=1e-4)
            assert scores.kl[index, place] == pytest.approx(kl, abs=1e-4)


def test_missing_sides_other_prompts_and_other_subspaces_are_refused() -> None:
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(32)
    one = named_subspace("trait", vector)
    model = tiny_model()
    rows = harmful_rows(model, 3)
    with pytest.raises(InputError, match="both sides"):
        refusal_scores(model, {"harmful": rows}, [one], hook_name=HOOK_NAME)
    with pytest.raises(InputError, match="d_model"):
        wrong = named_subspace("trait", vector[:16])
        refusal_scores(model, {"harmful": rows, "harmless": rows}, [wrong], hook_name=HOOK_NAME)
    short, long = (simulated(rng, n, share=0.5) for n in (10, 12))
    with pytest.raises(InputError, match="same prompts"):
        mediated_shares(short[0], long[1])
    other = replace(long[1], subspaces=(named_subspace("other", vector[:4]),))
    with pytest.raises(InputError, match="same subspaces"):
        mediated_shares(other, long[1])
