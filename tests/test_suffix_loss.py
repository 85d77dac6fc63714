from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lpa_interp.hooks import Intervention
from lpa_interp.jailbreaks.suffix_loss import SuffixLoss, SuffixProblem
from lpa_interp.jailbreaks.suffix_search import SearchOptions, allowed_tokens, draw_candidates
from lpa_interp.lora import attach_lora
from lpa_interp.model import HookedTransformer
from tests import plain_gcg
from tests.suffixes import cast, model_of, problem_of, search
from tests.tiny import SIZES, tiny_model

KINDS = [*SIZES, "gpt2", "sequential gpt_neox"]
FUSED = ["llama", "mistral", "qwen2", "qwen3", "sequential gpt_neox"]


def drawn(loss_of: SuffixLoss, problem: SuffixProblem, n_replace: int = 1) -> tuple[Any, Tensor]:
    """The reading of the initial suffix and candidates drawn from it."""
    options = SearchOptions(search_width=40, top_k=30, n_replace=n_replace)
    reading = loss_of.read(torch.tensor(problem.suffix))
    generator = torch.Generator().manual_seed(3)
    allowed = allowed_tokens(loss_of.model)
    return reading, draw_candidates(reading.suffix, reading.gradient, allowed, options, generator)


def read_plainly(
    model: HookedTransformer, hooks: Intervention | None = None
) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
    """A reading, losses of candidates, and the plain gradient and losses of the same."""
    problem = problem_of(model)
    with model.hooks(fwd_hooks=list(hooks or [])):
        loss_of = SuffixLoss(model, problem)
        reading, candidates = drawn(loss_of, problem)
        ours = loss_of.of_candidates(candidates, reading, batch_size=7)[0]
        plain = plain_gcg.losses(model, problem, candidates)
        start = plain_gcg.losses(model, problem, reading.suffix[None])
    return reading, ours, plain, start, candidates


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_and_losses_equal_whole_rows_in_float64(kind: str) -> None:
    model = model_of(kind, torch.float64)
    reading, ours, plain, start, _ = read_plainly(model)
    assert reading.prefix.fused == (kind in FUSED)
    gradient = plain_gcg.gradient(model, problem_of(model))
    torch.testing.assert_close(reading.gradient, gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    assert reading.loss == pytest.approx(start.item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradient_agrees_with_finite_differences(kind: str) -> None:
    model = model_of(kind, torch.float64)
    problem = problem_of(model)
    start, loss = plain_gcg.one_hot_loss(model, problem)
    gradient = SuffixLoss(model, problem).read(torch.tensor(problem.suffix)).gradient
    generator, step = torch.Generator().manual_seed(0), 1e-5
    with torch.no_grad():
        for _ in range(3):
            way = torch.randn(start.shape, dtype=start.dtype, generator=generator)
            slope = (loss(start + step * way) - loss(start - step * way)) / (2 * step)
            assert (gradient * way).sum().item() == pytest.approx(slope.item(), rel=1e-6)


@pytest.mark.parametrize("n_replace", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 6, 100])
def test_the_size_of_a_pass_changes_no_loss(batch_size: int, n_replace: int) -> None:
    model = model_of("llama", torch.float64)
    problem = problem_of(model)
    loss_of = SuffixLoss(model, problem)
    reading, candidates = drawn(loss_of, problem, n_replace)
    candidates = torch.cat([candidates, reading.suffix[None]])  # unchanged is a candidate too
    found, _ = loss_of.of_candidates(candidates, reading, batch_size)
    torch.testing.assert_close(found, plain_gcg.losses(model, problem, candidates))
    assert found[-1].item() == pytest.approx(reading.loss)


def test_only_the_tokens_that_follow_the_first_swap_are_run() -> None:
    model = tiny_model()
    problem = problem_of(model)
    loss_of = SuffixLoss(model, problem)
    reading = loss_of.read(torch.tensor(problem.suffix))
    last_swapped = reading.suffix.clone()
    last_swapped[-1] = 40
    seen: list[int] = []
    look = [("hook_embed", lambda x, hook: seen.append(x.shape[1]) or x)]
    with model.hooks(fwd_hooks=look):
        loss_of.of_candidates(last_swapped[None], reading, batch_size=4)
    assert seen == [1 + len(problem.after) + len(problem.target) - 1]


def _halve(activation: Tensor, hook: Any = None) -> Tensor:
    return 0.5 * activation


@pytest.mark.parametrize(
    ("kind", "names", "fused"),
    [
        ("llama", ["hook_embed", "blocks.1.hook_mlp_out"], True),
        ("llama", ["blocks.1.attn.hook_z", "ln_final.hook_normalized"], False),
        ("llama", ["blocks.1.attn.hook_k", "blocks.2.attn.hook_v"], False),
        ("gpt2", ["hook_embed", "blocks.0.hook_attn_out"], False),
    ],
)
def test_hooks_that_are_open_take_part(kind: str, names: list[str], fused: bool) -> None:
    model = model_of(kind, torch.float64)
    hooks: Intervention = [(name, _halve) for name in names]
    reading, ours, plain, start, _ = read_plainly(model, hooks)
    assert reading.prefix.fused == fused
    torch.testing.assert_close(ours, plain)
    assert reading.loss == pytest.approx(start.item(), rel=1e-12)
    assert abs(reading.loss - read_plainly(model)[0].loss) > 1e-5  # the hooks do something
    # The gradient too: a step along it changes the loss under the hooks as it says.
    problem = problem_of(model)
    suffix = torch.tensor(problem.suffix)
    with model.hooks(fwd_hooks=hooks):
        gradient = SuffixLoss(model, problem).read(suffix).gradient
        token, step = int(gradient[4].abs().argmax()), 1e-6
        own = model.embed.W_E.data[suffix[4]].clone()
        rows = plain_gcg.whole_rows(problem, suffix[None])
        place = len(problem.before) + 4
        slopes = []
        for sign in (1, -1):

            def move(module: Any, args: Any, out: Tensor, sign: int = sign) -> Tensor:
                moved = out.clone()
                moved[0, place] = own + sign * step * model.embed.W_E.data[token]
                return moved

            handle = model.embed.register_forward_hook(move)
            with torch.no_grad():
                logits = model(rows, attention_mask=torch.ones_like(rows))
            slopes.append(plain_gcg.target_loss(logits, problem).item())
            handle.remove()
    slope = (slopes[0] - slopes[1]) / (2 * step)
    assert gradient[4, token].item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_attached_adapter_takes_part_and_gains_no_gradient(kind: str) -> None:
    model = model_of(kind, torch.float64)
    before = read_plainly(model)[3]
    adapter = attach_lora(model, ("q", "v", "o", "up", "down"), rank=3, alpha=6, seed=0)
    generator = torch.Generator().manual_seed(1)
    for update in adapter.updates.values():
        torch.nn.init.normal_(update.b, std=0.1, generator=generator)
    reading, ours, plain, start, _ = read_plainly(model)
    torch.testing.assert_close(ours, plain)
    assert reading.loss == pytest.approx(start.item())
    assert abs(reading.loss - before.item()) > 1e-3
    found = search(model)
    loss = plain_gcg.losses(model, problem_of(model), torch.tensor([found.ids]))
    assert found.loss == pytest.approx(loss.item())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in adapter.parameters())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_bfloat16_model_is_searched_with_losses_in_float32(kind: str) -> None:
    exact = model_of(kind)
    model = cast(copy.deepcopy(exact), torch.bfloat16)
    exact.load_state_dict(model.state_dict())  # the same rounded weights, computed wide
    reading, ours, _, _, candidates = read_plainly(model)
    expected = plain_gcg.losses(exact, problem_of(exact), candidates).double()
    torch.testing.assert_close(ours, expected, rtol=0.01, atol=0)
    assert reading.gradient.dtype == torch.float32
    gradient = plain_gcg.gradient(exact, problem_of(exact))
    assert (reading.gradient - gradient).norm() < 0.05 * gradient.norm()
    found = search(model)
    assert min(found.losses[1:]) < found.losses[0]


def test_logits_of_a_bfloat16_model_are_not_rounded_to_bfloat16() -> None:
    model = model_of("llama", torch.bfloat16)
    problem = problem_of(model)
    resid = torch.randn(20, 9, 32, generator=torch.Generator().manual_seed(0))
    found, _ = SuffixLoss(model, problem)._losses(resid)
    normed = model.ln_final(resid[:, -len(problem.target) :]).double()
    log_p = (normed @ model.unembed.W_U.double()).log_softmax(-1)
    labels = torch.tensor(problem.target).expand(20, -1)
    exact = -log_p.gather(-1, labels[..., None])[..., 0].mean(-1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)
