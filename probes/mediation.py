"""Causal tests: does refusal change when the trait direction is cut out?

The controls are random unit directions, cut out of the same places. An isotropic direction in
hundreds of dimensions carries little of the activation, a trait direction may carry much; the
second control draws directions from the covariance of the residual stream, so that what it
removes is typical of what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import bootstrap

from lpa_interp.chat import Row
from lpa_interp.errors import InputError
from lpa_interp.judges import refusal_token_ids
from lpa_interp.model import HookedTransformer
from lpa_interp.records import AblationEffect, Direction, ModelLabel, Projection, PromptSide
from probes.scoring import InterventionScores, score_ablations


def ablation_effects(
    model: HookedTransformer,
    rows_by_side: Mapping[PromptSide, Sequence[Row]],
    directions: Mapping[str, np.ndarray],
    *,
    label: ModelLabel,
    residuals: Float[np.ndarray, "n d_model"] | None = None,
    n_random: int = 8,
    n_bootstrap: int = 2000,
    batch_size: int = 64,
    token_ids: Sequence[int] | None = None,
    seed: int = 0,
) -> list[AblationEffect]:
    """Mean refusal log-odds with nothing, each direction, and random directions cut out.

    A direction is removed from the residual stream at all layers and positions.

    Args:
        model: Any HookedTransformer; no hooks should be open on it.
        rows_by_side: Prompts of the ``harmful`` and ``harmless`` side.
        directions: Vectors [d_model] by name, such as ``trait`` and ``refusal``; any norm.
        label: Label of the model.
        residuals: Activations of the residual stream whose covariance the control
            ``random_covariance`` is drawn from; without them that control is left out.
        n_random: Random directions of each control. A prompt's value is its mean over draws, so
            that intervals are over prompts.
        n_bootstrap: Resamples of the prompts.
        batch_size: Examples (directions times prompts) per forward pass.
        token_ids: Refusal tokens; without them those of `lpa_interp.judges.refusal_token_ids`.
        seed: Of the random directions and the resamples.

    Returns:
        Rows for ``none``, each name, ``random`` and ``random_covariance``, per side. ``change``
        is paired: its interval is over the prompts' own changes.

    Raises:
        InputError: A side has fewer than two prompts, or a direction is zero.
    """
    sets = _direction_sets(directions, model.cfg.d_model, residuals, n_random, seed)
    stacked = torch.cat(list(sets.values())).to(model.cfg.device, model.cfg.dtype)[:, None]
    ids = refusal_token_ids(model) if token_ids is None else token_ids
    effects = []
    for side, rows in rows_by_side.items():
        if len(rows) < 2:
            raise InputError(f"{side} prompts", "an interval needs two at least")
        scores = score_ablations(model, rows, stacked, ids, batch_size)
        for name, values, kl, n_draws in _per_prompt(scores, sets):
            mean, low, high = _interval(values, n_bootstrap, seed)
            change = _interval(values - scores.unmodified, n_bootstrap, seed)
            effects.append(
                AblationEffect(
                    model=label,
                    ablated=name,
                    side=side,
                    refusal_log_odds=mean,
                    low=low,
                    high=high,
                    change=change[0],
                    change_low=change[1],
                    change_high=change[2],
                    kl=float(kl.mean()),
                    n=len(rows),
                    n_draws=n_draws,
                    seed=seed,
                )
            )
    return effects


def _direction_sets(
    directions: Mapping[str, np.ndarray],
    d_model: int,
    residuals: np.ndarray | None,
    n_random: int,
    seed: int,
) -> dict[str, torch.Tensor]:
    """The unit directions behind each row: one of each name, several of each control."""
    rng = np.random.default_rng(seed)
    sets = {name: _units(name, np.asarray(vector)[None]) for name, vector in directions.items()}
    sets["random"] = _units("random", rng.standard_normal((n_random, d_model)))
    if residuals is not None:
        draws = covariance_directions(residuals, n_random, rng)
        sets["random_covariance"] = _units("random_covariance", draws)
    return sets


def _per_prompt(
    scores: InterventionScores, sets: Mapping[str, torch.Tensor]
) -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    """Name, log-odds and KL of each prompt (means over draws), and the number of draws."""
    parts = [("none", scores.unmodified, np.zeros_like(scores.unmodified), 0)]
    start = 0
    for name, units in sets.items():
        chosen = slice(start, start + len(units))
        kl = scores.kl[chosen].mean(axis=0)
        parts.append((name, scores.modified[chosen].mean(axis=0), kl, len(units)))
        start += len(units)
    return parts


def covariance_directions(
    residuals: Float[np.ndarray, "n d_model"], n_directions: int, rng: np.random.Generator
) -> Float[np.ndarray, "n_directions d_model"]:
    """Draws from a normal with the covariance of the activations: mixtures of centred rows."""
    centred = residuals.astype(np.float64) - residuals.mean(axis=0, dtype=np.float64)
    draws: np.ndarray = rng.standard_normal((n_directions, len(centred))) @ centred
    return draws


def _units(name: str, vectors: np.ndarray) -> torch.Tensor:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and norms.all()):
        raise InputError(f"direction {name!r}", "is zero or not finite")
    return torch.from_numpy((vectors / norms).astype(np.float32))


def _interval(values: np.ndarray, n_bootstrap: int, seed: int) -> tuple[float, float, float]:
    """Mean and its 95 % percentile bootstrap interval."""
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return mean, mean, mean
    found = bootstrap(
        (values,), np.mean, n_resamples=n_bootstrap, method="percentile", rng=seed, vectorized=True
    ).confidence_interval
    return mean, float(found.low), float(found.high)


def class_midpoint(
    positive: Float[np.ndarray, "n d_model"], negative: Float[np.ndarray, "m d_model"]
) -> Float[np.ndarray, " d_model"]:
    """The point half-way between two class means, where `project` puts its zero."""
    middle: np.ndarray = (
        positive.mean(0, dtype=np.float64) + negative.mean(0, dtype=np.float64)
    ) / 2
    return middle


def project(
    activations: Float[np.ndarray, "n d_model"],
    direction: Direction,
    midpoint: Float[np.ndarray, " d_model"],
    *,
    groups: Sequence[str],
    text_ids: Sequence[str],
) -> list[Projection]:
    """Where texts lie along a direction, in activation units from the midpoint.

    Args:
        activations: One text a row, read at the direction's hook point.
        direction: The unit direction.
        midpoint: From `class_midpoint`, of the classes that made the direction.
        groups: ``positive_trait``, ``negative_trait``, ``harmful`` or ``harmless`` of each text.
        text_ids: Name of each text.
    """
    unit = direction.vector.astype(np.float64)
    values = (activations.astype(np.float64) - midpoint) @ unit
    return [
        Projection(
            model=direction.model,
            direction=direction.name,
            hook_name=direction.hook_name,
            layer=direction.layer,
            group=group,
            text_id=text_id,
            value=float(value),
        )
        for group, text_id, value in zip(groups, text_ids, values, strict=True)
    ]
