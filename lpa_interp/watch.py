"""What the attacked model says while it trains: greedy completions under a perturbation, judged.

"Training produced no harmful text" is then a measured rate with an interval. Its control is the
same statements without an attack (``attack=None``); how far the rate can be trusted is said by the
judge's own errors (`lpa_interp.harm`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils import parametrize

from lpa_interp.batches import TraitBatch
from lpa_interp.chat import stop_tokens, tokenizer_of
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.harm import HARM_JUDGES
from lpa_interp.hooks import HookFunction, Intervention
from lpa_interp.model import HookedTransformer, last_logits, new_cache
from lpa_interp.perturbation import Perturbation
from lpa_interp.records import HarmRate, TraitStatement, WatchedCompletion
from lpa_interp.redaction import KEPT_CHARACTERS
from lpa_interp.stats import wilson_interval


def watch(
    model: HookedTransformer,
    batch: TraitBatch,
    statements: Sequence[TraitStatement],
    attack: Perturbation | None,
    *,
    step: int,
    max_new_tokens: int = 24,
    judge: str = "harm_terms",
    keep_text: bool = False,
    hooks: Intervention | None = None,
) -> list[WatchedCompletion]:
    """Greedy completions of the statements under an attack, each with a harm verdict.

    The perturbation of the prompt is applied to the prompt. While the answer is written, token i
    gets the perturbation of answer position i, as it would in training; positions beyond the
    batch's answers get none. Adapters and hooks that are open take part.

    Args:
        model: The model that is being trained.
        batch: The statements as tokens; its prompts are what the model answers.
        statements: The rows of the batch, in its order.
        attack: A finished attack on this batch, its interventions included; None for none.
        step: The training step, for the rows.
        max_new_tokens: Tokens per completion at most.
        judge: A name in `lpa_interp.harm.HARM_JUDGES`; it reads whole completions.
        keep_text: Keep whole texts. Otherwise rows hold their first 40 characters.
        hooks: An attack that is an intervention alone, such as an ablated direction.

    Raises:
        InputError: The judge is unknown, the statements or the perturbation are not those of
            the batch, or the completions would not fit into the model's context.
        NumericalError: A logit is NaN.
    """
    if judge not in HARM_JUDGES:
        raise InputError("judge", f"{judge!r} is unknown", ", ".join(HARM_JUDGES))
    _check(model, batch, statements, attack, max_new_tokens)
    intervention = [*(hooks or []), *(_replay(attack) if attack is not None else [])]
    with torch.no_grad(), parametrize.cached(), model.hooks(fwd_hooks=intervention):
        new = _greedy(model, batch.prompt, batch.prompt_mask, max_new_tokens)
    return [
        _row(model, statement, ids, step, bool(intervention), judge, keep_text)
        for statement, ids in zip(statements, new.tolist(), strict=True)
    ]


def harm_rate(rows: Sequence[WatchedCompletion]) -> HarmRate:
    """The share of harmful completions among those that the judge decided, with its interval.

    Undecided completions are counted and left out, never taken for harmless; where none is
    decided the rate and its bounds are NaN. The interval treats rows as independent, so it is
    too narrow where a statement was watched at several steps: ``n_statements`` says how many
    statements there are.

    Raises:
        InputError: There are no rows, or they mix judges, or attacked and unattacked ones.
    """
    groups = {(row.judge, row.attacked) for row in rows}
    if len(groups) != 1:
        raise InputError("rows", f"are of {len(groups)} kinds", "one judge, attacked or not")
    (judge, attacked) = groups.pop()
    decided = [row.harmful for row in rows if row.harmful is not None]
    n_harmful = sum(value == 1 for value in decided)
    rate = low = high = math.nan
    if decided:
        interval = wilson_interval(n_harmful, len(decided))
        rate, low, high = interval.value, interval.low, interval.high
    return HarmRate(
        judge=judge,
        attacked=attacked,
        n=len(decided),
        n_undecided=len(rows) - len(decided),
        n_harmful=n_harmful,
        n_statements=len({row.statement_id for row in rows}),
        rate=rate,
        low=low,
        high=high,
    )


def _check(
    model: HookedTransformer,
    batch: TraitBatch,
    statements: Sequence[TraitStatement],
    attack: Perturbation | None,
    max_new_tokens: int,
) -> None:
    n_batch, n_prompt = batch.prompt.shape
    if len(statements) != n_batch:
        raise InputError("statements", f"{len(statements)} for a batch of {n_batch}")
    room = model.cfg.n_ctx - n_prompt
    if not 1 <= max_new_tokens <= room:
        allowed = f"1 to {room}: prompts have {n_prompt} tokens, the context {model.cfg.n_ctx}"
        raise InputError("max_new_tokens", f"{max_new_tokens} is not allowed", allowed)
    shape = (n_batch, n_prompt + batch.answers.shape[-1], model.cfg.d_model)
    for name, delta in attack.deltas.items() if attack is not None else ():
        if delta.shape != shape:
            raise InputError(
                f"perturbation at {name}", f"has shape {tuple(delta.shape)}", f"{shape}"
            )


def _replay(attack: Perturbation) -> Intervention:
    """The attack's interventions, then its perturbations, as in training; for one run only."""
    return [*attack.hooks, *((name, _shift(delta)) for name, delta in attack.deltas.items())]


def _shift(delta: Float[Tensor, "batch pos d_model"]) -> HookFunction:
    """Adds the perturbation of the positions that come, call by call; none after the last."""
    seen = 0

    def hook_function(
        activation: Float[Tensor, "batch some_pos d_model"], hook: Any = None
    ) -> Float[Tensor, "batch some_pos d_model"]:
        nonlocal seen
        n_new = activation.shape[1]
        part = delta[:, seen : seen + n_new].to(activation)
        seen += n_new
        return activation + pad(part, (0, 0, 0, n_new - part.shape[1]))

    return hook_function


def _greedy(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    max_new_tokens: int,
) -> Int[Tensor, "batch new"]:
    """Greedy tokens; end-of-turn tokens after a completion's end."""
    stops = torch.tensor(stop_tokens(model), device=tokens.device)
    ended: Bool[Tensor, " batch"] = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    cache, new = new_cache(model, len(tokens)), list[Tensor]()
    while len(new) < max_new_tokens and not ended.all():
        logits = last_logits(model, tokens, mask, cache=cache)[:, -1]
        if logits.isnan().any():
            raise NumericalError(f"the logits of answer token {len(new) + 1} are NaN")
        chosen = logits.argmax(dim=-1).where(~ended, stops[0])
        ended = ended | torch.isin(chosen, stops)
        new.append(chosen)
        tokens, mask = chosen[:, None], torch.ones_like(chosen)[:, None]
    return torch.stack(new, dim=1)


def _row(
    model: HookedTransformer,
    statement: TraitStatement,
    ids: list[int],
    step: int,
    attacked: bool,
    judge: str,
    keep_text: bool,
) -> WatchedCompletion:
    stops = set(stop_tokens(model))
    end = next((index for index, token in enumerate(ids) if token in stops), len(ids))
    text = str(tokenizer_of(model).decode(ids[:end], skip_special_tokens=True))
    kept = text if keep_text else text[:KEPT_CHARACTERS]
    return WatchedCompletion(
        step=step,
        statement_id=statement.id,
        side=statement.side,
        attacked=attacked,
        n_tokens=end,
        text=kept,
        redacted=kept != text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        judge=judge,
        harmful=HARM_JUDGES[judge](text),
    )
