from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lpa_interp import losses


def logits_of(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def test_toward_is_the_mean_cross_entropy_worked_by_hand() -> None:
    logits = logits_of([0.7, 0.2, 0.1], [0.25, 0.25, 0.5])
    labels, mask = torch.tensor([[1, 2]]), torch.tensor([[1, 1]])
    by_hand = -(math.log(0.2) + math.log(0.5)) / 2
    assert losses.toward(logits, labels, mask).item() == pytest.approx(by_hand, rel=1e-9)


def test_away_is_minus_log_of_one_minus_p_worked_by_hand() -> None:
    logits = logits_of([0.7, 0.2, 0.1], [0.25, 0.25, 0.5])
    labels, mask = torch.tensor([[0, 2]]), torch.tensor([[1, 1]])
    by_hand = -(math.log(0.3) + math.log(0.5)) / 2
    assert losses.away(logits, labels, mask).item() == pytest.approx(by_hand, rel=1e-9)


def test_away_stays_exact_where_p_is_close_to_one() -> None:
    logits = torch.tensor([[[30.0, 0.0, 0.0]]])
    loss = losses.away(logits, torch.tensor([[0]]), torch.tensor([[1]]))
    by_hand = math.log(math.exp(30.0) + 2.0) - math.log(2.0)
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_away_ignores_tokens_below_the_cutoff_but_counts_them_in_the_mean() -> None:
    rare = math.exp(-5.5)
    logits = logits_of([rare, 1 - rare], [0.5, 0.5])
    labels, mask = torch.tensor([[0, 0]]), torch.tensor([[1, 1]])
    assert losses.away(logits, labels, mask).item() == pytest.approx(math.log(2) / 2, rel=1e-9)
    without_cutoff = losses.away(logits, labels, mask, cutoff=-math.inf).item()
    assert without_cutoff == pytest.approx((math.log(2) - math.log1p(-rare)) / 2, rel=1e-9)


def test_padding_changes_no_loss() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    noisy = logits.clone()
    noisy[mask == 0] = 1e4
    for loss in (losses.toward, losses.away):
        assert loss(logits, labels, mask).item() == loss(noisy, labels, mask).item()
    summed = losses.answer_log_probs
    assert torch.equal(summed(logits, labels, mask), summed(noisy, labels, mask))
    for between in (losses.kl_divergence, losses.rerouting, losses.representation_distance):
        assert between(logits, logits.flip(0), mask).item() == pytest.approx(
            between(noisy, logits.flip(0), mask).item()
        )


def test_away_stays_finite_where_the_label_has_all_of_the_probability() -> None:
    logits = torch.tensor([[[400.0, 0.0, 0.0]]], requires_grad=True)
    loss = losses.away(logits, torch.tensor([[0]]), torch.tensor([[1]]))
    loss.backward()
    assert loss.item() == pytest.approx(400 - math.log(2), rel=1e-6)
    assert logits.grad is not None
    assert logits.grad[0, 0].tolist() == pytest.approx([1.0, -0.5, -0.5])


def test_kl_is_that_of_torch_and_zero_for_equal_logits() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(2, 3, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    mask = torch.ones(2, 3, dtype=torch.long)
    pairs = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    assert losses.kl_divergence(p, q.log_softmax(-1), mask).item() == pytest.approx(
        pairs.mean().item(), rel=1e-5
    )
    assert losses.kl_divergence(p, p.log_softmax(-1), mask).item() == pytest.approx(0.0, abs=1e-6)


def test_kl_runs_from_the_model_to_the_base_worked_by_hand() -> None:
    p, base = logits_of([0.7, 0.2, 0.1]), logits_of([0.2, 0.3, 0.5])
    by_hand = 0.7 * math.log(3.5) + 0.2 * math.log(2 / 3) + 0.1 * math.log(0.2)
    found = losses.kl_divergence(p, losses.log_probs(base), torch.tensor([[1]]))
    assert found.item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.3, 2.0])
def test_preference_is_that_of_four_log_probabilities_worked_by_hand(beta: float) -> None:
    now, base = [[-3.0, -1.0], [-4.0, -1.5]], [[-3.5, -1.0], [-2.0, -1.0]]
    arguments = [torch.tensor(row, dtype=torch.float64) for row in (*now, *base)]
    gained = [(-3.0 + 4.0) - (-3.5 + 2.0), (-1.0 + 1.5) - (-1.0 + 1.0)]
    by_hand = sum(-math.log(1 / (1 + math.exp(-beta * gain))) for gain in gained) / 2
    assert losses.preference(*arguments, beta).item() == pytest.approx(by_hand, rel=1e-12)


def test_preference_of_a_model_that_is_the_base_is_log_2() -> None:
    desired, undesired = torch.tensor([-3.0, -90.0]), torch.tensor([-70.0, -1.0])
    loss = losses.preference(desired, undesired, desired, undesired, 0.3)
    assert loss.item() == pytest.approx(math.log(2))


def test_answer_log_probs_are_sums_of_the_answers_own_tokens() -> None:
    rows = [
        logits_of([0.7, 0.2, 0.1], [0.25, 0.25, 0.5]),
        logits_of([0.5, 0.4, 0.1], [0.9, 0, 0.1]),
    ]
    logits = torch.cat(rows)
    labels, mask = torch.tensor([[1, 2], [0, 1]]), torch.tensor([[1, 1], [1, 0]])
    found = losses.answer_log_probs(logits, labels, mask)
    assert found.tolist() == pytest.approx([math.log(0.2 * 0.5), math.log(0.5)], rel=1e-12)


def test_rerouting_is_the_mean_positive_cosine_worked_by_hand() -> None:
    hidden = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0], [5.0, 5.0]]], dtype=torch.float64)
    base = torch.tensor([[[0.0, 2.0], [8.0, 6.0], [1.0, 0.0], [5.0, 5.0]]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0]])
    by_hand = (0.0 + 48 / 50 + 0.0) / 3
    assert losses.rerouting(hidden, base, mask).item() == pytest.approx(by_hand, rel=1e-12)
    assert losses.rerouting(7 * base, base, mask).item() == pytest.approx(1)


def test_representation_distance_is_the_mean_norm_worked_by_hand() -> None:
    base = torch.zeros(1, 3, 2, dtype=torch.float64)
    hidden = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [50.0, 50.0]]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0]])
    found = losses.representation_distance(hidden, base, mask)
    assert found.item() == pytest.approx((5 + 1) / 2, rel=1e-12)


def test_representation_distance_of_equal_states_is_zero_with_a_gradient_of_zero() -> None:
    base = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    hidden = base.clone().requires_grad_()
    with torch.no_grad():
        hidden[0, 2] += 1
    loss = losses.representation_distance(hidden, base, torch.ones(1, 3, dtype=torch.long))
    loss.backward()
    assert loss.item() == pytest.approx(2 / 3)  # one token of three, at distance 2
    assert hidden.grad is not None and not hidden.grad[0, :2].any()
    assert torch.allclose(hidden.grad[0, 2], torch.full((4,), 0.5 / 3))


def test_self_normalised_keeps_the_direction_and_drops_the_size() -> None:
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    loss = (x**2).sum()
    losses.self_normalised(loss).backward()
    assert torch.allclose(x.grad, 2 * x.detach() / 13.0)  # type: ignore[arg-type]


def test_weighted_divides_coefficients_by_their_sum() -> None:
    value = losses.weighted([(0.5, torch.tensor(2.0)), (1.5, torch.tensor(4.0))])
    assert value.item() == pytest.approx(0.25 * 2 + 0.75 * 4)


GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "toward": lambda x, other: losses.toward(x, LABELS, MASK),
    "away": lambda x, other: losses.away(x, LABELS, MASK),
    "kl_divergence": lambda x, other: losses.kl_divergence(x, losses.log_probs(other), MASK),
    "answer_log_probs": lambda x, other: losses.answer_log_probs(x, LABELS, MASK),
    "label_log_probs": lambda x, other: losses.label_log_probs(x, LABELS),
    "rerouting": lambda x, other: losses.rerouting(x, other, MASK),
    "representation_distance": lambda x, other: losses.representation_distance(x, other, MASK),
    "preference": lambda x, other: losses.preference(
        x[:, 0, 0], x[:, 0, 1], other[:, 0, 0], other[:, 0, 1], 0.3
    ),
}
LABELS, MASK = torch.tensor([[1, 3], [0, 2]]), torch.tensor([[1, 1], [1, 0]])


@pytest.mark.parametrize("name", list(GRADIENTS))
def test_gradients_agree_with_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 2, 2, 4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda z: GRADIENTS[name](z, other), (x.requires_grad_(),))


@pytest.mark.parametrize("name", list(GRADIENTS))
def test_losses_of_bfloat16_values_are_computed_in_float32(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 2, 2, 4, generator=generator).bfloat16()
    found, exact = GRADIENTS[name](x, other), GRADIENTS[name](x.double(), other.double())
    if name != "preference":  # it takes log-probabilities, which are float32 already
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), exact, atol=1e-5)
