from __future__ import annotations

import math

import pytest
import torch

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


def test_kl_is_that_of_torch_and_zero_for_equal_logits() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(2, 3, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    mask = torch.ones(2, 3, dtype=torch.long)
    pairs = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    assert losses.kl_divergence(p, q, mask).item() == pytest.approx(pairs.mean().item(), rel=1e-5)
    assert losses.kl_divergence(p, p, mask).item() == pytest.approx(0.0, abs=1e-6)


def test_self_normalised_keeps_the_direction_and_drops_the_size() -> None:
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    loss = (x**2).sum()
    losses.self_normalised(loss).backward()
    assert torch.allclose(x.grad, 2 * x.detach() / 13.0)  # type: ignore[arg-type]


def test_weighted_divides_coefficients_by_their_sum() -> None:
    value = losses.weighted([(0.5, torch.tensor(2.0)), (1.5, torch.tensor(4.0))])
    assert value.item() == pytest.approx(0.25 * 2 + 0.75 * 4)


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    base = torch.randn(1, 2, 4, dtype=torch.float64)
    labels, mask = torch.tensor([[1, 3]]), torch.tensor([[1, 1]])
    for loss in (losses.toward, losses.away):
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, labels, mask), (logits,))
    assert torch.autograd.gradcheck(lambda z: losses.kl_divergence(z, base, mask), (logits,))
