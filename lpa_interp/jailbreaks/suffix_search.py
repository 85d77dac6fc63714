"""Greedy coordinate gradient: the search for a suffix that brings out a target answer.

Every step takes the gradient of the target's loss with respect to the one-hot tokens of the
suffix, draws candidates that swap one token for one of those with the steepest descent, and
goes on from the candidate with the lowest loss, whether or not that is lower than before.

Source: Zou et al. 2023, arXiv 2307.15043, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.chat import Row, tokenizer_of
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.jailbreaks.suffix_loss import SuffixLoss, SuffixProblem, SuffixReading, frozen
from lpa_interp.model import HookedTransformer

INITIAL_SUFFIX = " ".join(["!"] * 20)

Stable = Callable[[Int[Tensor, "n n_suffix"]], Bool[Tensor, " n"]]
"""Which candidates, given on the CPU, are the same tokens again once they are written as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How long and how wide a suffix is searched. The paper's values: 500 steps, 512, 256.

    Attributes:
        n_steps: Steps; 0 leaves the initial suffix, which is a control.
        search_width: Candidates drawn in each step (B in the paper).
        top_k: Tokens of steepest descent that a candidate's token is drawn from.
        n_replace: Tokens that a candidate swaps.
        seed: Of the draws.
        initial: The suffix to start from; its number of tokens is kept.
        any_token: Draw from the whole vocabulary. Else tokens are printable ASCII, and none is
            a special token, with which a suffix could close the user's turn.
        early_stop: Stop when the target is the greedy answer to the chosen candidate.
        batch_size: Candidates per forward pass.
    """

    n_steps: int = 50
    search_width: int = 64
    top_k: int = 64
    n_replace: int = 1
    seed: int = 0
    initial: str = INITIAL_SUFFIX
    any_token: bool = False
    early_stop: bool = False
    batch_size: int = 16

    def __post_init__(self) -> None:
        least = {"n_steps": 0, "seed": 0} | dict.fromkeys(
            ("search_width", "top_k", "n_replace", "batch_size"), 1
        )
        for name, low in least.items():
            if getattr(self, name) < low:
                mistake = f"{getattr(self, name)} is not allowed"
                raise InputError(f"suffix search: {name}", mistake, f"{low} or more")
        if not self.initial or self.initial != self.initial.strip():
            allowed = "some text without white space at its ends"
            raise InputError(f"suffix search: initial {self.initial!r}", "is not allowed", allowed)


@dataclass(frozen=True, slots=True)
class FoundSuffix:
    """The suffix with the lowest loss of those chosen, or the one that stopped the search.

    Attributes:
        ids: Its tokens.
        loss: Its loss, nats per target token.
        greedy: Whether the target is the greedy answer to it.
        losses: The initial suffix's loss, then that of each step's chosen candidate.
        n_tried: Distinct stable candidates of each step; where there is none the suffix stays.
    """

    ids: Row
    loss: float
    greedy: bool
    losses: tuple[float, ...]
    n_tried: tuple[int, ...]


def search_suffix(
    model: HookedTransformer,
    problem: SuffixProblem,
    options: SearchOptions,
    allowed: Bool[Tensor, " d_vocab"],
    stable: Stable,
    on_step: Callable[[int], None] | None = None,
) -> FoundSuffix:
    """Searches from ``problem.suffix``. An attached adapter and open hooks take part.

    The model's parameters take no gradients and are as they were afterwards.

    Args:
        model: The model under attack.
        problem: The tokens around the suffix, and the target.
        options: Length and width of the search; ``options.initial`` is not read here.
        allowed: Tokens that may be swapped in, from `allowed_tokens`.
        stable: Which candidates are kept.
        on_step: Called with the number of steps done.

    Raises:
        InputError: Fewer tokens are allowed than ``top_k``, or the suffix has fewer than
            ``n_replace``.
        NumericalError: A loss or gradient is not finite; says at which step.
    """
    _check(problem, options, allowed)
    with frozen(model), parametrize.cached():
        loss_of = SuffixLoss(model, problem)
        start = torch.tensor(problem.suffix, device=model.cfg.device)
        chosen, n_tried = _walk(loss_of, start, options, allowed, stable, on_step)
    stopped = options.early_stop and chosen[-1].greedy
    best = chosen[-1] if stopped else min(chosen, key=lambda one: one.loss)
    losses = tuple(one.loss for one in chosen)
    return FoundSuffix(best.ids.tolist(), best.loss, best.greedy, losses, tuple(n_tried))


class _Chosen(NamedTuple):
    loss: float
    greedy: bool
    ids: Int[Tensor, " n_suffix"]


def _walk(
    loss_of: SuffixLoss,
    start: Int[Tensor, " n_suffix"],
    options: SearchOptions,
    allowed: Bool[Tensor, " d_vocab"],
    stable: Stable,
    on_step: Callable[[int], None] | None,
) -> tuple[list[_Chosen], list[int]]:
    """The suffix to start from and each step's choice, and the candidates of each step."""
    generator = torch.Generator().manual_seed(options.seed)
    reading = loss_of.read(start)
    chosen, n_tried = [_Chosen(reading.loss, reading.greedy, start)], []
    for step in range(options.n_steps):
        if step:
            reading = loss_of.read(chosen[-1].ids)
        _check_finite(reading, step)
        drawn = draw_candidates(reading.suffix, reading.gradient, allowed, options, generator)
        kept = drawn[stable(drawn)].to(start.device)
        chosen.append(_best(loss_of, kept, reading, options.batch_size, step))
        n_tried.append(len(kept))
        if on_step is not None:
            on_step(step + 1)
        if options.early_stop and chosen[-1].greedy:
            break
    return chosen, n_tried


def draw_candidates(
    suffix: Int[Tensor, " n_suffix"],
    gradient: Float[Tensor, "n_suffix d_vocab"],
    allowed: Bool[Tensor, " d_vocab"],
    options: SearchOptions,
    generator: torch.Generator,
) -> Int[Tensor, "n n_suffix"]:
    """Distinct candidates on the CPU, at most ``search_width``: draws that repeat are one.

    Positions are uniform, and so are the ``top_k`` allowed tokens of steepest descent at each.
    Source: Zou et al. 2023, arXiv 2307.15043, algorithm 1, lines 3 to 7.
    """
    width, n_replace = options.search_width, options.n_replace
    slopes = gradient.masked_fill(~allowed.to(gradient.device), torch.inf)
    steepest = (-slopes).topk(options.top_k, dim=1).indices.cpu()
    places = torch.rand((width, len(suffix)), generator=generator).argsort(dim=1)[:, :n_replace]
    ranks = torch.randint(0, options.top_k, (width, n_replace, 1), generator=generator)
    tokens = steepest[places].gather(2, ranks).squeeze(2)
    return suffix.cpu().repeat(width, 1).scatter(1, places, tokens).unique(dim=0)


def allowed_tokens(model: HookedTransformer, any_token: bool = False) -> Bool[Tensor, " d_vocab"]:
    """Tokens that a suffix may hold: printable ASCII text, and no special token.

    With ``any_token`` all that the tokenizer knows. A vocabulary may hold rows beyond those.
    """
    tokenizer = tokenizer_of(model)
    known = range(min(len(tokenizer), model.cfg.d_vocab))
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    texts = [str(text) for text in tokenizer.batch_decode([[token] for token in known])]
    allowed = torch.zeros(model.cfg.d_vocab, dtype=torch.bool)
    for token, text in zip(known, texts, strict=True):
        plain = text != "" and text.isascii() and text.isprintable() and token not in special
        allowed[token] = any_token or plain
    return allowed


def _best(
    loss_of: SuffixLoss,
    candidates: Int[Tensor, "n n_suffix"],
    reading: SuffixReading,
    batch_size: int,
    step: int,
) -> _Chosen:
    """The best candidate; the present suffix where there is none."""
    if not len(candidates):
        return _Chosen(reading.loss, reading.greedy, reading.suffix)
    losses, greedy = loss_of.of_candidates(candidates, reading, batch_size)
    if not torch.isfinite(losses).all():
        raise NumericalError(f"the loss of a suffix is not finite, step {step}")
    best = int(losses.argmin())
    return _Chosen(losses[best].item(), bool(greedy[best].item()), candidates[best])


def _check_finite(reading: SuffixReading, step: int) -> None:
    if not torch.isfinite(reading.gradient).all() or not reading.loss < float("inf"):
        raise NumericalError(f"the loss of a suffix or its gradient is not finite, step {step}")


def _check(
    problem: SuffixProblem, options: SearchOptions, allowed: Bool[Tensor, " d_vocab"]
) -> None:
    n_allowed, n_suffix = int(allowed.sum()), len(problem.suffix)
    if options.top_k > n_allowed:
        what = f"{options.top_k} is more than the tokens that are allowed"
        raise InputError("suffix search: top_k", what, f"at most {n_allowed}")
    if options.n_replace > n_suffix:
        what = f"{options.n_replace} is more than the suffix has"
        raise InputError("suffix search: n_replace", what, f"at most {n_suffix}")
