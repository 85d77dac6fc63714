"""The refusal direction of Arditi et al., with every candidate's scores.

Candidates are differences of mean activations, harmful minus harmless, at each token after the
instruction and each layer. Each is judged by what it does: cut out, harmful prompts should be
answered (bypass) and harmless ones unchanged (KL); added, harmless prompts should be refused
(induce). All on prompts that the means did not see.

Source: Arditi et al. 2024, arXiv 2406.11717, section 2.3 and appendix C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from lpa_interp.chat import Row, post_instruction_row, tokenizer_of
from lpa_interp.config import ProbeConfig
from lpa_interp.errors import InputError
from lpa_interp.judges import refusal_token_ids
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Direction, ModelLabel, RefusalCandidate
from probes.activations import collect
from probes.scoring import addition_odds_by_layer, score_ablations

NEGLIGIBLE = 1e-5
"""Differences below this share of the activation norm are rounding, not a direction: at layer
0 every prompt has the same embedding at the template's tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalSearch:
    """What the search found.

    ``candidates`` holds a row per (position, layer); ``direction`` is None where no candidate
    passed the filters, and ``reason`` says why. ``differences`` are the raw mean differences at
    every position and layer (also the layers that cannot be chosen), float32
    [n_positions, n_layers, d_model], at ``blocks.L.hook_resid_pre``.
    """

    candidates: list[RefusalCandidate]
    direction: Direction | None
    reason: str
    positions: tuple[int, ...]
    differences: np.ndarray

    def by_layer(self, position: int | None = None) -> dict[int, np.ndarray]:
        """The difference vector of each layer where there is one.

        ``position`` defaults to that of the chosen direction, or to the last token.
        """
        if position is None:
            position = self.direction.position if self.direction else -1
        vectors = self.differences[self.positions.index(position)]
        return {layer: vector for layer, vector in enumerate(vectors) if vector.any()}


def find_refusal_direction(
    model: HookedTransformer,
    harmful_train: Sequence[Row],
    harmless_train: Sequence[Row],
    harmful_validation: Sequence[Row],
    harmless_validation: Sequence[Row],
    config: ProbeConfig,
    label: ModelLabel,
    batch_size: int = 64,
    stop_early: bool = False,
    token_ids: Sequence[int] | None = None,
) -> RefusalSearch:
    """Searches positions after the instruction and layers for the refusal direction.

    Args:
        model: Any HookedTransformer; no hooks should be open on it.
        harmful_train: Rows of harmful prompts for the means, ending in the template's tokens.
        harmless_train: Rows of harmless prompts for the means.
        harmful_validation: Rows that score bypass; none of them in the training rows.
        harmless_validation: Rows that score induce and KL.
        config: Filters (``max_kl``, ``min_induce``, ``drop_last_layers``) and ``batch_size``
            for reading activations.
        label: Label of the model.
        batch_size: Examples (candidates times prompts) per forward pass of the scoring.
        stop_early: Score no further a candidate that has failed a filter (KL, then induce); its
            other scores are NaN. The choice is the same.
        token_ids: Refusal tokens, for example from `own_refusal_tokens`; without them those of
            `lpa_interp.judges.refusal_token_ids`.

    Returns:
        The candidates with scores, and the one with the lowest bypass among those that pass.

    Raises:
        InputError: A set is empty, or a row does not end in the template's tokens.
    """
    ending = post_instruction_row(model)
    for rows in (harmful_train, harmless_train, harmful_validation, harmless_validation):
        _require_ending(rows, ending)
    positions = tuple(range(-len(ending), 0))
    raw = mean_differences(model, harmful_train, harmless_train, positions, config.batch_size)
    n_layers = selectable_layers(model.cfg.n_layers, config.drop_last_layers)
    ids = refusal_token_ids(model) if token_ids is None else token_ids
    validation = (harmful_validation, harmless_validation)
    scores = _scores(model, raw[:, :n_layers], *validation, config, batch_size, stop_early, ids)
    tokens = [tokenizer_of(model).decode([token]) for token in ending]
    candidates = _candidates(scores, positions, tokens, config, label)
    chosen = next((row for row in candidates if row.selected), None)
    n = len(harmful_train) + len(harmless_train)
    return RefusalSearch(
        candidates=candidates,
        direction=_direction(chosen, raw[positions.index(chosen.position)], n) if chosen else None,
        reason="" if chosen else _reason(candidates),
        positions=positions,
        differences=raw,
    )


def _require_ending(rows: Sequence[Row], ending: Row) -> None:
    if not rows:
        raise InputError("prompts", "a set is empty", "both sides need training and validation")
    if any(row[-len(ending) :] != ending for row in rows):
        raise InputError("prompts", "one does not end in the template's tokens", "use chat_rows")


def selectable_layers(n_layers: int, drop_last: float) -> int:
    """Number of layers, from the first, that can hold the chosen direction."""
    # 1e-9: 10 * (1 - 0.9) is 0.9999999999999998.
    return max(1, int(n_layers * (1 - drop_last) + 1e-9))


def mean_differences(
    model: HookedTransformer,
    harmful: Sequence[Row],
    harmless: Sequence[Row],
    positions: Sequence[int],
    batch_size: int = 16,
) -> Float32[np.ndarray, "n_positions n_layers d_model"]:
    """Mean ``resid_pre`` on harmful minus harmless prompts, at each position and layer.

    Means are taken in float64. Differences that are rounding only are exactly zero.
    """
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
    bad, good = (collect(model, rows, names, positions, batch_size) for rows in (harmful, harmless))
    means = [np.stack([side.means(name) for name in names], axis=1) for side in (bad, good)]
    difference, scale = means[0] - means[1], np.linalg.norm(means[1], axis=-1, keepdims=True)
    real = np.linalg.norm(difference, axis=-1, keepdims=True) > NEGLIGIBLE * scale
    cleaned: np.ndarray = np.where(real, difference, 0).astype(np.float32)
    return cleaned


@dataclass(frozen=True, slots=True)
class _Scores:
    """Means over prompts, each [n_positions, n_layers]; NaN where not scored.

    ``exists`` tells where there is a vector at all.
    """

    bypass: np.ndarray
    induce: np.ndarray
    kl: np.ndarray
    exists: np.ndarray


def _scores(
    model: HookedTransformer,
    raw: Float32[np.ndarray, "n_positions n_layers d_model"],
    harmful: Sequence[Row],
    harmless: Sequence[Row],
    config: ProbeConfig,
    batch_size: int,
    stop_early: bool,
    token_ids: Sequence[int],
) -> _Scores:
    vectors = torch.from_numpy(raw).to(model.cfg.device, model.cfg.dtype)
    units = torch.nn.functional.normalize(vectors.float(), dim=-1).to(vectors.dtype)[:, :, None]
    exists: np.ndarray = np.any(raw, axis=2, keepdims=False)
    bypass, kl = np.full(exists.shape, np.nan), np.full(exists.shape, np.nan)
    wanted = exists if stop_early else np.ones_like(exists)
    if wanted.any():
        scores = score_ablations(model, harmless, units[wanted], token_ids, batch_size)
        kl[wanted] = scores.kl.mean(axis=1)
    if stop_early:
        wanted = wanted & (kl <= config.max_kl)
    induce = addition_odds_by_layer(model, harmless, vectors, wanted, token_ids, batch_size).mean(2)
    if stop_early:
        wanted = wanted & (induce >= config.min_induce)
    if wanted.any():
        scores = score_ablations(model, harmful, units[wanted], token_ids, batch_size)
        bypass[wanted] = scores.modified.mean(axis=1)
    return _Scores(bypass=bypass, induce=induce, kl=kl, exists=exists)


def _candidates(
    scores: _Scores,
    positions: Sequence[int],
    tokens: Sequence[str],
    config: ProbeConfig,
    label: ModelLabel,
) -> list[RefusalCandidate]:
    """Applies the filters and marks the candidate with the lowest bypass among the kept."""
    kept = scores.exists & (scores.kl <= config.max_kl) & (scores.induce >= config.min_induce)
    best = np.where(kept, scores.bypass, np.inf).argmin() if kept.any() else -1
    rows = []
    for flat, (index, layer) in enumerate(np.ndindex(kept.shape)):
        failed = {
            "zero": not scores.exists[index, layer],
            "kl": scores.kl[index, layer] > config.max_kl,
            "induce": scores.induce[index, layer] < config.min_induce,
        }
        rows.append(
            RefusalCandidate(
                model=label,
                position=positions[index],
                token=tokens[index],
                layer=layer,
                bypass=float(scores.bypass[index, layer]),
                induce=float(scores.induce[index, layer]),
                kl=float(scores.kl[index, layer]),
                rejected=", ".join(name for name, failure in failed.items() if failure),
                selected=bool(flat == best),
            )
        )
    return rows


def _direction(
    chosen: RefusalCandidate, raw: Float32[np.ndarray, "n_layers d_model"], n: int
) -> Direction:
    vector = raw[chosen.layer]
    norm = float(np.linalg.norm(vector))
    return Direction(
        name="refusal",
        model=chosen.model,
        hook_name=f"blocks.{chosen.layer}.hook_resid_pre",
        layer=chosen.layer,
        position=chosen.position,
        method="mean_difference",
        raw_norm=norm,
        n=n,
        split="train",
        vector=vector / norm,
    )


def _reason(candidates: Sequence[RefusalCandidate]) -> str:
    counts = {name: sum(name in row.rejected for row in candidates) for name in ("kl", "induce")}
    return (
        f"none of {len(candidates)} candidates passed: {counts['kl']} change harmless prompts "
        f"too much, {counts['induce']} do not induce refusal"
    )
