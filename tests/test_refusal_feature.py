from __future__ import annotations

import pytest
import torch

from lpa_interp.batches import answer_logits, make_batch
from lpa_interp.model import HookedTransformer
from lpa_interp.refusal_feature import feature_ablation, feature_layers, refusal_features
from tests.planted import PLANTED_LAYER, harmful_rows, harmless_rows, refusing_model
from tests.statements import STATEMENTS
from tests.tiny import tiny_model


@pytest.mark.parametrize(
    ("n_layers", "share", "first"),
    [(32, 0.75, 8), (4, 0.75, 1), (30, 0.75, 8), (12, 1.0, 0), (12, 0.01, 11), (1, 0.75, 0)],
)
def test_the_last_three_quarters_of_the_layers_are_taken_and_at_least_one(
    n_layers: int, share: float, first: int
) -> None:
    assert list(feature_layers(n_layers, share)) == list(range(first, n_layers))


def features(model: HookedTransformer, batch_size: int = 16) -> dict[str, torch.Tensor]:
    rows = harmful_rows(model, 20), harmless_rows(model, 15)
    return refusal_features(model, *rows, feature_layers(4, 0.75), batch_size)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_features_are_differences_of_means_at_the_last_prompt_token(kind: str) -> None:
    model = tiny_model(kind=kind)
    found = features(model)
    assert list(found) == [f"blocks.{layer}.hook_resid_pre" for layer in (1, 2, 3)]
    for name, vector in found.items():
        means = [
            torch.stack(
                [model.run_with_cache(torch.tensor([row]))[1][name][0, -1].double() for row in rows]
            ).mean(0)
            for rows in (harmful_rows(model, 20), harmless_rows(model, 15))
        ]
        expected = (means[0] - means[1]).float()
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_batch_size() -> None:
    model = tiny_model()
    whole, split = features(model), features(model, batch_size=3)
    for name in whole:
        torch.testing.assert_close(split[name], whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_feature_is_found_where_it_is_written_and_not_before(seed: int) -> None:
    model, planted, _ = refusing_model(seed)
    for name, vector in features(model).items():
        along = vector @ planted
        if int(name.split(".")[1]) < PLANTED_LAYER:
            assert along.abs() < 1e-4
        else:
            assert along > 0.95 * vector.norm() and along > 1


def test_prompts_without_a_difference_have_no_feature_and_no_ablation() -> None:
    model, _, _ = refusing_model()
    rows = harmless_rows(model, 12)
    found = refusal_features(model, rows, rows, range(4))
    assert not any(vector.any() for vector in found.values())
    batch = make_batch(model, STATEMENTS, None)
    with model.hooks(fwd_hooks=feature_ablation(found, torch.ones(6, dtype=torch.bool))):
        ablated = answer_logits(model, batch)
    assert torch.equal(ablated, answer_logits(model, batch))


def test_ablation_takes_exactly_the_component_out_of_the_chosen_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(8, generator=generator)
    activation = torch.randn(3, 5, 8, generator=generator)
    examples = torch.tensor([True, False, True])
    [(name, cut)] = feature_ablation({"blocks.1.hook_resid_pre": feature}, examples)
    assert name == "blocks.1.hook_resid_pre"
    unit = feature.double() / feature.double().norm()
    projector = torch.eye(8, dtype=torch.float64) - torch.outer(unit, unit)
    before = activation.clone()
    after = cut(activation)
    assert torch.equal(activation, before)
    assert torch.equal(after[1], activation[1])
    expected = (activation.double() @ projector).float()
    torch.testing.assert_close(after[[0, 2]], expected[[0, 2]], rtol=1e-5, atol=1e-6)
    assert torch.allclose(after[[0, 2]].double() @ unit, torch.zeros(2, 5).double(), atol=1e-6)
    torch.testing.assert_close(cut(after), after, rtol=1e-5, atol=1e-6)
    # Answers on a key-value cache follow each other along the first axis.
    both = cut(torch.cat([activation, activation]))
    torch.testing.assert_close(both, torch.cat([after, after]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_only_the_chosen_examples_answer_otherwise_under_the_ablation(kind: str) -> None:
    model = tiny_model(kind=kind)
    batch = make_batch(model, STATEMENTS, None)
    plain = answer_logits(model, batch)
    chosen = torch.tensor([True, False, False, True, False, False])
    with model.hooks(fwd_hooks=feature_ablation(features(model), chosen)):
        ablated = answer_logits(model, batch)
    changed = (ablated - plain).abs().amax(dim=(0, 2, 3))
    assert (changed[chosen] > 1e-2).all() and (changed[~chosen] < 1e-5).all()
