from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lpa_interp import losses
from lpa_interp.attack import AnswerLogProbs
from lpa_interp.batches import TraitBatch, make_batch
from lpa_interp.config import TrainConfig
from lpa_interp.defence import BaseReadings, DefenceInputs, accumulate_gradients, read_base
from lpa_interp.errors import NumericalError
from lpa_interp.hooks import Intervention, resolve_hooks
from lpa_interp.lora import LoraAdapter, attach_lora
from lpa_interp.model import HookedTransformer
from lpa_interp.perturbation import AttackLosses, Perturbation
from lpa_interp.refusal_feature import feature_ablation
from lpa_interp.reroute import EVERY_LAYER
from tests.statements import STATEMENTS
from tests.whole_passes import answering_model, random_deltas, whole_passes

OFF = {f"defence_{name}": 0.0 for name in ("toward", "away", "dpo", "sft", "kl")}
MIXES: dict[str, dict[str, object]] = {
    "published-llama2": {"defence_toward": 0.5, "defence_away": 0.5, "defence_sft": 1.5},
    "published-llama3": {"defence_toward": 0.5, "defence_away": 0.5, "defence_kl": 0.1},
    "sft and kl": {"defence_toward": 1, "defence_sft": 2, "defence_kl": 3},
    "normalised kl": {"defence_away": 1, "defence_kl": 0.5, "normalise_kl": True},
    "dpo": {"defence_dpo": 1.0, "dpo_beta": 0.3},
    "circuit-breakers": {"defence_reroute": 10, "defence_representation": 10},
    "everything": {
        **{f"defence_{name}": 1.0 for name in ("toward", "away", "dpo", "sft", "kl")},
        "defence_reroute": 2,
        "defence_representation": 3,
        "normalise_coefficients": False,
    },
}


@dataclass
class Setup:
    model: HookedTransformer
    adapter: LoraAdapter
    attacked: TraitBatch
    retained: TraitBatch
    attack: Perturbation


def setup(kind: str = "llama", hooks: bool = False) -> Setup:
    model = answering_model(kind)
    attacked = make_batch(model, STATEMENTS[3:], None)
    retained = make_batch(model, STATEMENTS[:2], None).desired_only()
    adapter = attach_lora(model, ("q", "k", "v", "o", "up", "down"), rank=2, alpha=4, seed=0)
    generator = torch.Generator().manual_seed(1)
    for update in adapter.updates.values():
        torch.nn.init.normal_(update.b, std=0.1, generator=generator)
    none = AttackLosses(0.0, 0.0)
    deltas = random_deltas(model, attacked, ["hook_embed", "blocks.1.hook_mlp_out"], 0.05)
    deltas = {name: delta.detach() for name, delta in deltas.items()}
    cut: Intervention = []
    if hooks:
        feature = torch.randn(32, generator=generator)
        cut = feature_ablation({"blocks.2.hook_resid_pre": feature}, torch.tensor([True] * 3))
    attack = Perturbation(none, none, attacked.attack_mask("both"), deltas, hooks=cut)
    return Setup(model, adapter, attacked, retained, attack)


def config(mix: str) -> TrainConfig:
    return TrainConfig.model_validate({"preset": "custom", **OFF, **MIXES[mix]})


def whole_states(model: HookedTransformer, batch: TraitBatch, names: list[str]) -> dict:
    """States of prompt and answer by one whole pass, without the answer's last token."""
    row = torch.cat([batch.prompt, batch.answers[0, :, :-1]], dim=1)
    mask = torch.cat([batch.prompt_mask, batch.answer_mask[0, :, :-1]], dim=1)
    states: dict[str, Tensor] = {}
    read = [(name, lambda a, hook: states.update({hook.name: a})) for name in names]
    with model.hooks(fwd_hooks=read):
        model(row, attention_mask=mask)
    return {name: (state, mask) for name, state in states.items()}


def plain_objective(on: Setup, base: HookedTransformer, settings: TrainConfig) -> Tensor:
    """The whole weighted sum as one graph, from whole passes of both models."""
    weights, batch, retained = settings.defence_coefficients(0.0), on.attacked, on.retained
    (good, bad), (good_mask, bad_mask) = batch.answers, batch.answer_mask
    with on.model.hooks(fwd_hooks=on.attack.hooks):
        desired, undesired = whole_passes(on.model, batch, on.attack.deltas)
    base_desired, base_undesired = whole_passes(base, batch)
    kept, base_kept = whole_passes(on.model, retained)[0], whole_passes(base, retained)[0]
    kl = losses.kl_divergence(kept, losses.log_probs(base_kept), retained.answer_mask[0])
    answers = [
        losses.answer_log_probs(*triple)
        for triple in (
            (desired, good, good_mask),
            (undesired, bad, bad_mask),
            (base_desired, good, good_mask),
            (base_undesired, bad, bad_mask),
        )
    ]
    sites = resolve_hooks(on.model, settings.reroute_sites)
    every = resolve_hooks(on.model, EVERY_LAYER)
    cosines, distances = [], []
    now, then = (whole_states(m, batch.undesired_only(), sites) for m in (on.model, base))
    for name in sites:
        cosines.append(losses.rerouting(now[name][0], then[name][0], now[name][1]))
    now, then = (whole_states(m, retained, every) for m in (on.model, base))
    for name in every:
        between = losses.representation_distance
        distances.append(between(now[name][0], then[name][0], now[name][1]))
    terms = {
        "toward": losses.toward(desired, good, good_mask),
        "away": losses.away(undesired, bad, bad_mask),
        "dpo": losses.preference(*answers, settings.dpo_beta),
        "sft": losses.toward(kept, retained.answers[0], retained.answer_mask[0]),
        "kl": kl / kl.detach() if settings.normalise_kl else kl,
        "reroute": torch.stack(cosines).mean(),
        "representation": torch.stack(distances).mean(),
    }
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def inputs(on: Setup, settings: TrainConfig) -> DefenceInputs:
    base = read_base(on.model, on.adapter, on.attacked, on.retained, settings)
    weights = settings.defence_coefficients(0.0)
    return DefenceInputs(on.attacked, on.retained, on.attack, base, weights, settings)


@pytest.mark.parametrize("mix", list(MIXES))
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_groups_of_losses_add_up_to_the_gradient_of_one_weighted_sum(mix: str, kind: str) -> None:
    on, settings = setup(kind, hooks=mix == "everything"), config(mix)
    objective = plain_objective(on, answering_model(kind), settings)
    expected = torch.autograd.grad(objective, on.adapter.parameters())
    values = accumulate_gradients(on.model, on.adapter, inputs(on, settings))
    assert values["objective"] == pytest.approx(objective.item(), rel=1e-5)
    for parameter, plain in zip(on.adapter.parameters(), expected, strict=True):
        size = plain.abs().max().item()
        torch.testing.assert_close(parameter.grad, plain, rtol=1e-3, atol=2e-5 * size)
    base = {name: p for name, p in on.model.named_parameters() if "original" in name}
    assert base and all(parameter.grad is None for parameter in base.values())


def test_gradients_add_to_what_is_there() -> None:
    on, settings = setup(), config("published-llama3")
    given = inputs(on, settings)
    accumulate_gradients(on.model, on.adapter, given)
    once = [p.grad.clone() for p in on.adapter.parameters()]  # type: ignore[union-attr]
    accumulate_gradients(on.model, on.adapter, given)
    for parameter, single in zip(on.adapter.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * single)


def test_plain_losses_are_logged_whatever_their_coefficients() -> None:
    on = setup()
    rows = {m: accumulate_gradients(on.model, on.adapter, inputs(on, config(m))) for m in MIXES}
    for row in rows.values():
        assert all(math.isfinite(value) for value in row.values())
        assert row["defence_away"] > 0.01
        for name in ("defence_toward", "defence_away"):
            assert row[name] == pytest.approx(rows["dpo"][name], rel=1e-6)
    kl, sft = rows["published-llama3"]["retain"], rows["published-llama2"]["retain"]
    assert rows["normalised kl"]["retain"] == pytest.approx(kl)
    assert rows["sft and kl"]["retain"] == pytest.approx(kl + sft)
    assert rows["dpo"]["retain"] == 0


def test_the_base_is_read_only_where_a_loss_compares_with_it() -> None:
    on, fresh = setup(), answering_model()
    wanted = {
        "published-llama2": set(),
        "published-llama3": {"retain"},
        "dpo": {"answers"},
        "circuit-breakers": {"rerouted", "kept"},
        "everything": {"retain", "answers", "rerouted", "kept"},
    }
    for mix, names in wanted.items():
        read = read_base(on.model, on.adapter, on.attacked, on.retained, config(mix))
        assert {n for n in BaseReadings.__slots__ if getattr(read, n) is not None} == names
    real = on.retained.answer_mask[0].bool()
    expected = whole_passes(fresh, on.retained)[0][real]
    assert read.retain is not None and read.answers is not None
    torch.testing.assert_close(read.retain[real], losses.log_probs(expected), rtol=1e-5, atol=1e-5)
    per_token = losses.label_log_probs(whole_passes(fresh, on.attacked), on.attacked.answers)
    by_hand = AnswerLogProbs(*(per_token * on.attacked.answer_mask).sum(-1))
    torch.testing.assert_close(tuple(read.answers), tuple(by_hand))
    assert not read.retain.requires_grad


@pytest.mark.parametrize("mix", ["published-llama3", "circuit-breakers"])
def test_a_loss_that_is_not_finite_names_the_hook_point(mix: str) -> None:
    on = setup()
    given = inputs(on, config(mix))
    with torch.no_grad():
        on.adapter.updates[2, "down"].b[0, 0] = torch.nan
    with pytest.raises(NumericalError, match=r"blocks\.2\.hook_mlp_out"):
        accumulate_gradients(on.model, on.adapter, given)
