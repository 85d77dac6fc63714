"""Dose and response: refusal as a direction is added in growing amounts, or cut out in part.

A direction that carries refusal moves it in proportion over some range, up one way and down the
other; a random direction of the same norm does not. A single dose cannot tell the two apart from
a model that is merely broken, which is what the KL is reported for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64

from lpa_interp.chat import Row
from lpa_interp.errors import InputError
from lpa_interp.judges import refusal_token_ids
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Direction, DoseEffect, ModelLabel, PromptSide
from probes.ratios import DEFAULT_RESAMPLES, PairedBootstrap
from probes.scoring import InterventionScores, score_ablations, score_additions

ADDED = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)
REMOVED = (0.25, 0.5, 0.75, 1.0)


def dose_effects(
    model: HookedTransformer,
    rows_by_side: Mapping[PromptSide, Sequence[Row]],
    direction: Direction,
    *,
    label: ModelLabel,
    doses: Sequence[float] = ADDED,
    fractions: Sequence[float] = REMOVED,
    n_random: int = 8,
    token_ids: Sequence[int] | None = None,
    batch_size: int = 64,
    level: float = 0.95,
    n_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> list[DoseEffect]:
    """Mean refusal log-odds at each dose of a direction and of random ones, by side.

    Args:
        model: Any HookedTransformer; no hooks should be open on it.
        rows_by_side: Prompts by side, two at least of each.
        direction: Read at ``blocks.L.hook_resid_pre``; additions go there, at all positions.
        label: Label of the model, which need not be the one that the direction is from.
        doses: Multiples of the direction's raw difference to add, signed.
        fractions: Of the component along the direction to take from everything that writes into
            the residual stream, at all layers and positions; 1 is ablation.
        n_random: Random unit directions, each with the same raw norm and doses.
        token_ids: Refusal tokens; without them those of `lpa_interp.judges.refusal_token_ids`.
        batch_size: Examples (doses times prompts) per forward pass.
        level: Of the intervals over prompts; those of the control are over its draws too.
        n_resamples: Resamples of the prompts.
        seed: Of the random directions and the resamples.

    Returns:
        For each side and intervention a row per dose of the direction, then of the control.

    Raises:
        InputError: The direction is not of this model or not read at ``hook_resid_pre``, there
            is no dose, a fraction is outside 0 to 1, or a side has fewer than two prompts.
        NumericalError: A score is NaN or infinite.
    """
    _check(model, direction, doses, fractions, n_random)
    ids = refusal_token_ids(model) if token_ids is None else token_ids
    units = _units(direction, n_random, seed)
    about: dict[str, Any] = {"model": label, "layer": direction.layer, "seed": seed, "level": level}
    effects: list[DoseEffect] = []
    for side, rows in rows_by_side.items():
        boot = PairedBootstrap(len(rows), n_resamples, level, seed)
        about |= {"side": side, "n": boot.n}
        for intervention, amounts in (("add", doses), ("ablate", fractions)):
            scores = _scores(model, rows, direction, units, intervention, amounts, ids, batch_size)
            effects += _rows(boot, scores, direction.name, intervention, amounts, about)
    return effects


def _check(
    model: HookedTransformer,
    direction: Direction,
    doses: Sequence[float],
    fractions: Sequence[float],
    n_random: int,
) -> None:
    place = f"direction {direction.name!r}"
    if direction.hook_name != f"blocks.{direction.layer}.hook_resid_pre":
        raise InputError(place, f"read at {direction.hook_name}", "blocks.L.hook_resid_pre")
    if direction.vector.shape != (model.cfg.d_model,) or direction.layer >= model.cfg.n_layers:
        raise InputError(place, "is not of this model", f"d_model {model.cfg.d_model}")
    if not (doses or fractions) or not np.isfinite([*doses, *fractions]).all():
        raise InputError("doses", "one finite dose or fraction at least is needed")
    if any(not 0 <= fraction <= 1 for fraction in fractions):
        raise InputError("fractions", "one is out of range", "0 (nothing) to 1 (ablation)")
    if n_random < 1:
        raise InputError("n_random", f"{n_random} is not allowed", "1 or more")


def _units(
    direction: Direction, n_random: int, seed: int
) -> Float64[np.ndarray, "n_directions d_model"]:
    """The direction and the random ones, of unit norm."""
    random = np.random.default_rng(seed).standard_normal((n_random, len(direction.vector)))
    vectors = np.concatenate([direction.vector[None].astype(np.float64), random])
    units: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def _scores(
    model: HookedTransformer,
    rows: Sequence[Row],
    direction: Direction,
    units: Float64[np.ndarray, "n_directions d_model"],
    intervention: str,
    amounts: Sequence[float],
    ids: Sequence[int],
    batch_size: int,
) -> InterventionScores:
    """Every dose of every direction, doses outermost."""
    doses = np.asarray(amounts, dtype=np.float64)
    # A row of norm sqrt(f) takes out the fraction f of the component.
    sizes = doses * direction.raw_norm if intervention == "add" else np.sqrt(doses)
    flat = (sizes[:, None, None] * units).reshape(-1, units.shape[1])
    vectors = torch.from_numpy(flat).float().to(model.cfg.device, model.cfg.dtype)
    if intervention == "add":
        return score_additions(model, rows, vectors, direction.layer, ids, batch_size)
    return score_ablations(model, rows, vectors[:, None], ids, batch_size)


def _rows(
    boot: PairedBootstrap,
    scores: InterventionScores,
    name: str,
    intervention: str,
    amounts: Sequence[float],
    about: Mapping[str, Any],
) -> list[DoseEffect]:
    kind: Literal["add", "ablate"] = "add" if intervention == "add" else "ablate"
    n_directions = len(scores.modified) // len(amounts) if amounts else 0
    found = []
    for chosen, who in ((slice(0, 1), (name, "")), (slice(1, None), ("random", name))):
        for place, dose in enumerate(amounts):
            block = slice(place * n_directions, (place + 1) * n_directions)
            values, kl = scores.modified[block][chosen], scores.kl[block][chosen]
            odds, change = boot.mean(values), boot.mean(values - scores.unmodified)
            found.append(
                DoseEffect(
                    **about,
                    direction=who[0],
                    control_of=who[1],
                    intervention=kind,
                    dose=float(dose),
                    refusal_log_odds=odds[0],
                    low=odds[1],
                    high=odds[2],
                    change=change[0],
                    change_low=change[1],
                    change_high=change[2],
                    kl=float(kl.mean()),
                    n_draws=len(values),
                )
            )
    return found
