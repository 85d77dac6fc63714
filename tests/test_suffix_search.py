from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lpa_interp.errors import InputError, NumericalError
from lpa_interp.hooks import HookFunction, ablate
from lpa_interp.jailbreaks.suffix_loss import SuffixLoss
from lpa_interp.jailbreaks.suffix_search import SearchOptions, allowed_tokens, draw_candidates
from lpa_interp.model import HookedTransformer, hook_model
from tests import plain_gcg
from tests.suffixes import FEW, INITIAL, PROMPT, problem_of, search
from tests.tiny import tiny_hugging_face, tiny_model, tiny_tokenizer


def test_candidates_swap_allowed_tokens_of_steepest_descent() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(5, 50, generator=generator)
    allowed = torch.arange(50) >= 10
    suffix = torch.full((5,), 3)
    for n_replace in (1, 2):
        options = SearchOptions(search_width=400, top_k=6, n_replace=n_replace)
        drawn = draw_candidates(suffix, gradient, allowed, options, generator)
        swapped = drawn != suffix
        assert (swapped.sum(1) == n_replace).all()
        assert len(drawn) == len(drawn.unique(dim=0)) <= 400
        for place in range(5):
            steepest = gradient[place, 10:].argsort()[:6] + 10
            assert set(drawn[swapped[:, place], place].tolist()) == set(steepest.tolist())
    assert gradient.isfinite().all()  # the caller's gradient is left alone


def test_allowed_tokens_are_printable_ascii_and_not_special() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    allowed = allowed_tokens(model)
    texts = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
    for token, text in texts.items():
        plain = text.isascii() and text.isprintable() and token not in tokenizer.all_special_ids
        assert allowed[token] == plain, text
    assert 0 < allowed.sum() < len(allowed)
    assert allowed_tokens(model, any_token=True).all()


def test_rows_of_the_vocabulary_beyond_the_tokenizer_are_never_allowed() -> None:
    model = tiny_model()
    model.cfg.d_vocab += 8
    assert not allowed_tokens(model, any_token=True)[-8:].any()


def test_a_wide_step_finds_the_best_single_swap() -> None:
    model = tiny_model()
    allowed = torch.zeros(model.cfg.d_vocab, dtype=torch.bool)
    allowed[40:60] = True
    options = SearchOptions(n_steps=1, search_width=3000, top_k=20, batch_size=64)
    found = search(model, options, allowed=allowed)
    loss, ids = plain_gcg.best_swap(model, problem_of(model), allowed)
    assert (found.ids, found.n_tried) == (ids, (20 * len(ids),))
    assert found.loss == pytest.approx(loss, rel=1e-5)


def test_the_search_reports_true_losses_and_returns_the_lowest() -> None:
    model = tiny_model()
    problem, steps = problem_of(model), []
    found = search(model, on_step=steps.append)
    assert steps == [1, 2, 3, 4]
    assert len(found.losses) == 5 and len(found.n_tried) == 4
    assert found.loss == min(found.losses) < found.losses[0]
    loss = plain_gcg.losses(model, problem, torch.tensor([found.ids]))
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    assert 0 < max(found.n_tried) <= 32


def test_the_search_goes_on_from_the_best_candidate_even_if_it_is_worse() -> None:
    # Tokens that all raise the loss: the only candidates there are.
    model = tiny_model()
    problem = problem_of(model)
    start = torch.tensor(problem.suffix)
    singles = start.repeat(320, 1)
    singles[:, 0] = torch.arange(320)
    worst = plain_gcg.losses(model, problem, singles).argsort(descending=True)[:5]
    allowed = torch.zeros(320, dtype=torch.bool)
    allowed[worst] = True
    options = replace(FEW, n_steps=2, top_k=5)
    found = search(model, options, allowed=allowed, stable=lambda ids: ids[:, 0] != start[0])
    assert found.losses[1] > found.losses[0]
    assert found.ids == problem.suffix and found.loss == found.losses[0]


def test_the_suffix_stays_where_no_candidate_is_stable() -> None:
    model = tiny_model()
    found = search(model, stable=lambda ids: torch.zeros(len(ids), dtype=torch.bool))
    assert found.ids == problem_of(model).suffix
    assert found.n_tried == (0,) * 4 and len(set(found.losses)) == 1


def test_no_steps_leave_the_initial_suffix() -> None:
    found = search(tiny_model(), replace(FEW, n_steps=0))
    assert found.ids == problem_of(tiny_model()).suffix
    assert len(found.losses) == 1 and found.n_tried == ()


def test_a_search_is_fixed_by_its_seed_and_leaves_the_global_one_alone() -> None:
    model = tiny_model()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = search(model)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert search(model) == first
    assert search(model, replace(FEW, seed=1)).ids != first.ids


def test_the_model_is_as_it_was_after_a_search() -> None:
    model = tiny_model()
    model.unembed.W_U.requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    versions = [p._version for p in model.parameters()]
    direction = torch.nn.functional.one_hot(torch.tensor(0), 32).float()
    kept: HookFunction = ablate(direction)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", kept)]):
        search(model)
        open_hooks = [name for name, point in model.hook_dict.items() if point.fwd_hooks]
    assert open_hooks == ["blocks.0.hook_resid_pre"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert {name: p.requires_grad for name, p in model.named_parameters()} == asked
    assert [p._version for p in model.parameters()] == versions
    assert all(p.grad is None for p in model.parameters())
    assert not model.embed._forward_hooks


def test_the_model_is_as_it_was_after_a_search_that_fails() -> None:
    model = tiny_model()
    model.unembed.W_U.requires_grad_(True)

    def fail(ids: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(model, stable=fail)
    assert model.unembed.W_U.requires_grad and not model.embed._forward_hooks


def planted(strength: float) -> tuple[HookedTransformer, int]:
    """A model in which the token Q, wherever it stands, raises the answer Yes.

    Its embedding carries a marker, a head that attends evenly writes a direction as much as it
    sees of it, and the unembedding reads that direction as Yes, with this strength.
    """
    model, tokenizer = tiny_model(), tiny_tokenizer()
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    for norm in [model.ln_final, *(ln for b in model.blocks for ln in (b.ln1, b.ln2))]:
        norm.w.data.fill_(1.0)
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(32, 2, generator=generator))[0].T
    for written in (model.embed.W_E, *(b.mlp.W_out for b in model.blocks)):
        written.data -= written.data @ axes.T @ axes
    for block in model.blocks:
        block.attn.W_O.data -= block.attn.W_O.data @ axes.T @ axes
    (token,) = tokenizer("Q", add_special_tokens=False).input_ids
    (answer,) = tokenizer("Yes", add_special_tokens=False).input_ids
    model.embed.W_E.data[token] += 2.0 * axes[0]
    attention = model.blocks[1].attn
    attention._W_V.data[0] = 0.0
    attention._W_V.data[0][:, 0] = axes[0]
    for query_head in (0, 1):
        attention.W_Q.data[query_head] = 0.0
        attention.W_O.data[query_head] = 0.0
        attention.W_O.data[query_head][0] = axes[1]
    model.unembed.W_U.data -= torch.outer(axes[1], axes[1] @ model.unembed.W_U.data)
    model.unembed.W_U.data[:, answer] += strength * axes[1]
    model.ln_final = torch.nn.Identity()  # each Q then adds as much as the one before
    return model, token


def test_a_planted_token_is_found_and_its_absence_is_not() -> None:
    options = SearchOptions(n_steps=14, search_width=48, top_k=8, batch_size=48)
    (model, token), (null, _) = planted(2.0), planted(0.0)
    problem = problem_of(model, "Yes")
    reading = SuffixLoss(model, problem).read(torch.tensor(problem.suffix))
    assert (reading.gradient.argmin(dim=1) == token).all()
    found, nothing = search(model, options, "Yes"), search(null, options, "Yes")
    assert found.ids.count(token) == len(problem.suffix)
    assert found.greedy and found.loss < 0.02 * found.losses[0]
    assert nothing.ids.count(token) <= 1
    assert not nothing.greedy and nothing.loss > 0.99 * nothing.losses[0]


def test_an_early_stop_ends_with_the_first_suffix_whose_greedy_answer_is_the_target() -> None:
    model, _ = planted(2.0)
    model.unembed.b_U.data[40] += 4.0  # another answer, which takes several tokens to beat
    options = SearchOptions(n_steps=10, search_width=48, top_k=8, batch_size=48, early_stop=True)
    found = search(model, options, "Yes")
    assert found.greedy and 2 < len(found.losses) < 11
    assert found.loss == found.losses[-1]
    problem = problem_of(model, "Yes")
    with torch.no_grad():
        row = torch.tensor([[*problem.before, *found.ids, *problem.after]])
        assert model(row)[0, -1].argmax().item() == problem.target[0]
    longer = search(model, replace(options, early_stop=False), "Yes")
    assert longer.losses[: len(found.losses)] == found.losses
    assert len(longer.losses) == 11 and longer.loss < found.loss


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_steps", -1), ("search_width", 0), ("top_k", 0), ("n_replace", 0), ("batch_size", 0)],
)
def test_an_option_out_of_range_is_named(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name}: {value} is not allowed"):
        SearchOptions(**{name: value})


@pytest.mark.parametrize("initial", ["", " ! !", "! ! "])
def test_an_initial_suffix_has_no_white_space_at_its_ends(initial: str) -> None:
    with pytest.raises(InputError, match="white space"):
        SearchOptions(initial=initial)


def test_more_tokens_or_swaps_than_there_are_is_an_error() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match=r"top_k.*at most"):
        search(model, replace(FEW, top_k=320))
    with pytest.raises(InputError, match=r"n_replace.*at most 11"):
        search(model, replace(FEW, n_replace=12))


def test_a_loss_that_is_not_finite_says_at_which_step() -> None:
    model = tiny_model()
    model.blocks[2].mlp.W_out.data[0] = float("nan")
    with pytest.raises(NumericalError, match="step 0"):
        search(model)


def test_the_search_takes_the_steps_of_nanogcg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient, candidates and losses of every step, with the same seed."""
    nanogcg = pytest.importorskip("nanogcg.gcg")
    monkeypatch.setattr(nanogcg, "gc", SimpleNamespace(collect=lambda: None))  # slow
    hf_model, tokenizer = tiny_hugging_face(), copy.deepcopy(tiny_tokenizer())
    tokenizer.bos_token = "<|pad|>"  # nanogcg takes every BOS out of the template
    model = hook_model(hf_model, tiny_tokenizer(), "cpu", "float32")
    config = nanogcg.GCGConfig(
        num_steps=4, search_width=32, topk=24, seed=5, optim_str_init=INITIAL
    )
    config.use_prefix_cache = False  # which needs transformers 4
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with torch.random.fork_rng(devices=[]):
            reference = nanogcg.GCG(hf_model, tokenizer, config)
            theirs = reference.run(PROMPT.text + " {optim_str}", "Yes yes")
    finally:
        torch.use_deterministic_algorithms(deterministic)
    problem = problem_of(model)
    gradient = reference.compute_token_gradient(torch.tensor([problem.suffix]))[0]
    ours = SuffixLoss(model, problem).read(torch.tensor(problem.suffix)).gradient
    assert (ours - gradient).norm() < 1e-4 * gradient.norm()
    allowed = torch.ones(model.cfg.d_vocab, dtype=torch.bool)
    allowed[reference.not_allowed_ids] = False

    def stable(ids: Tensor) -> Tensor:
        """As nanogcg: the suffix by itself is encoded again."""
        again = [
            tokenizer(t, add_special_tokens=False).input_ids for t in tokenizer.batch_decode(ids)
        ]
        return torch.tensor([a == b for a, b in zip(again, ids.tolist(), strict=True)])

    options = SearchOptions(n_steps=4, search_width=32, top_k=24, seed=5)
    found = search(model, options, allowed=allowed, stable=stable)
    assert tokenizer.decode(found.ids) == theirs.best_string
    assert found.losses[1:] == pytest.approx(theirs.losses, rel=1e-5)
