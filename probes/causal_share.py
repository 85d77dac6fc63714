"""How much of the refusal that training gained is carried by a subspace.

In the trained model the subspace is cut out, and what refusal drops is set against what it had
gained over the base model on the same prompts. Scores of each model are read apart, since both
may be one HookedTransformer with an adapter switched off and on; the shares are then plain
arithmetic on arrays:

    with bench.model("base") as model:
        before = refusal_scores(model, rows, subspaces, hook_name=hook_name)
    with bench.model("lpa") as model:
        after = refusal_scores(model, rows, subspaces, hook_name=hook_name)
    shares = mediated_shares(before, after)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lpa_interp.chat import Row
from lpa_interp.errors import InputError
from lpa_interp.judges import refusal_token_ids
from lpa_interp.model import HookedTransformer
from lpa_interp.records import MediatedShare, ModelLabel, PromptSide
from probes.activations import collect
from probes.controls import MATCHED, RANDOM, NamedSubspace, removed_norm_share
from probes.ratios import DEFAULT_RESAMPLES, Estimate, PairedBootstrap
from probes.scoring import score_ablations

SIDES: tuple[PromptSide, ...] = ("harmful", "harmless")
NOT_GIVEN = Estimate(None, None, None)


@dataclass(frozen=True, slots=True)
class SideScores:
    """Scores of n prompts of one side, refusal log-odds and KL in nats.

    ``unmodified`` is [n]. ``ablated`` and ``kl`` hold an array [n_draws, n] and ``removed`` the
    share of the squared norm that lies inside, for each subspace.
    """

    unmodified: np.ndarray
    ablated: tuple[np.ndarray, ...]
    kl: tuple[np.ndarray, ...]
    removed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SubspaceScores:
    """Scores of one model with nothing and with each subspace cut out, by side."""

    subspaces: tuple[NamedSubspace, ...]
    sides: Mapping[PromptSide, SideScores]


def refusal_scores(
    model: HookedTransformer,
    rows_by_side: Mapping[PromptSide, Sequence[Row]],
    subspaces: Sequence[NamedSubspace],
    *,
    hook_name: str,
    token_ids: Sequence[int] | None = None,
    batch_size: int = 64,
) -> SubspaceScores:
    """Refusal of one model, prompt by prompt, with each subspace cut out of the residual stream.

    A subspace is cut out at all layers and positions.

    Args:
        model: Any HookedTransformer; no hooks should be open on it.
        rows_by_side: Prompts of the ``harmful`` and of the ``harmless`` side, both needed: a
            share on harmful prompts means nothing if the ablation breaks the model elsewhere.
        subspaces: From `probes.controls.with_controls`. For the base model they may be left out
            (an empty list), which leaves the net share out.
        hook_name: Where the share of the squared norm is read, at the last prompt token.
        token_ids: Refusal tokens, the same for both models; without them those of
            `lpa_interp.judges.refusal_token_ids`.
        batch_size: Examples (subspaces times prompts) per forward pass.

    Raises:
        InputError: A side is missing or has fewer than two prompts.
        NumericalError: A score is NaN or infinite.
    """
    if set(rows_by_side) != set(SIDES) or min(map(len, rows_by_side.values())) < 2:
        raise InputError("prompts", "both sides are needed, with two prompts at least of each")
    ids = refusal_token_ids(model) if token_ids is None else token_ids
    stacked = _padded(subspaces, model.cfg.d_model).to(model.cfg.device, model.cfg.dtype)
    sides: dict[PromptSide, SideScores] = {}
    for side in SIDES:
        rows = rows_by_side[side]
        scores = score_ablations(model, rows, stacked, ids, batch_size)
        read = collect(model, rows, [hook_name], batch_size=batch_size).at(hook_name)
        removed = [np.mean([removed_norm_share(read, b) for b in s.bases]) for s in subspaces]
        sides[side] = SideScores(
            scores.unmodified,
            _by_subspace(scores.modified, subspaces),
            _by_subspace(scores.kl, subspaces),
            tuple(float(share) for share in removed),
        )
    return SubspaceScores(tuple(subspaces), sides)


def _by_subspace(
    values: Float64[np.ndarray, "n_bases n"], subspaces: Sequence[NamedSubspace]
) -> tuple[np.ndarray, ...]:
    """The stacked scores, cut up into each subspace's draws."""
    starts = np.cumsum([0, *(len(subspace.bases) for subspace in subspaces)])
    return tuple(values[start:end] for start, end in itertools.pairwise(starts))


def _padded(subspaces: Sequence[NamedSubspace], d_model: int) -> Float[Tensor, "n_bases k d_model"]:
    """All bases stacked; rows of zeros, which cut nothing, fill up those of fewer dimensions."""
    largest = max((subspace.k for subspace in subspaces), default=1)
    parts = [np.zeros((0, largest, d_model))]
    for subspace in subspaces:
        if subspace.bases.shape[2] != d_model:
            raise InputError(
                f"subspace {subspace.name!r}", f"is not of this model's d_model {d_model}"
            )
        parts.append(np.pad(subspace.bases, ((0, 0), (0, largest - subspace.k), (0, 0))))
    return torch.from_numpy(np.concatenate(parts)).float()


def mediated_shares(
    base: SubspaceScores,
    trained: SubspaceScores,
    *,
    first: ModelLabel = "base",
    second: ModelLabel = "lpa",
    max_kl: float = 1.0,
    level: float = 0.95,
    n_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> list[MediatedShare]:
    """The share of the refusal gain that each subspace carries, a row per subspace and side.

    Args:
        base: Scores of the model before training, with the same subspaces or with none.
        trained: Scores of the model after training on the same prompts in the same order.
        first: Label of the base model.
        second: Label of the trained model.
        max_kl: A row is marked damaged where the KL on harmless prompts is above this (nats). On
            harmful ones a large KL is what cutting refusal out should do.
        level: Of the intervals, which come from one paired bootstrap over the prompts.
        n_resamples: Resamples of the prompts.
        seed: Of the resamples.

    Raises:
        InputError: The two were not scored on the same prompts or with the same subspaces.
    """
    _require_pair(base, trained)
    rows = []
    for side, after in trained.sides.items():
        before, harmless = base.sides[side], trained.sides["harmless"]
        boot = PairedBootstrap(len(after.unmodified), n_resamples, level, seed)
        for index, subspace in enumerate(trained.subspaces):
            kl_harmless = float(harmless.kl[index].mean())
            about: dict[str, Any] = {"first": first, "second": second, "side": side}
            rows.append(
                MediatedShare(
                    **about,
                    ablated=subspace.name,
                    control_of=subspace.control_of,
                    k=subspace.k,
                    **_estimates(boot, before, after, trained.subspaces, index),
                    removed_norm_share=after.removed[index],
                    kl=float(after.kl[index].mean()),
                    kl_harmless=kl_harmless,
                    damaged=kl_harmless > max_kl,
                    n=boot.n,
                    n_draws=len(subspace.bases),
                    seed=seed,
                    level=level,
                )
            )
    return rows


def _require_pair(base: SubspaceScores, trained: SubspaceScores) -> None:
    sizes = [
        {side: len(scores.unmodified) for side, scores in found.sides.items()}
        for found in (base, trained)
    ]
    if sizes[0] != sizes[1]:
        raise InputError("scores", "the two models were not scored on the same prompts")
    pairs = zip(base.subspaces, trained.subspaces, strict=False)
    same = len(base.subspaces) == len(trained.subspaces) and all(
        one.name == other.name and np.array_equal(one.bases, other.bases) for one, other in pairs
    )
    if base.subspaces and not same:
        raise InputError("scores", "the two models were not scored with the same subspaces")


def _estimates(
    boot: PairedBootstrap,
    before: SideScores,
    after: SideScores,
    subspaces: Sequence[NamedSubspace],
    index: int,
) -> dict[str, Any]:
    """The gain, the drop and all shares of one subspace, with their bounds, by field name."""
    gain = after.unmodified - before.unmodified
    drop = after.unmodified - after.ablated[index]
    means = {"gain": boot.mean(gain), "drop": boot.mean(drop)}
    share = boot.ratio(drop, gain)
    ratios = {"share": share, "net": NOT_GIVEN, "over_random": NOT_GIVEN, "over_matched": NOT_GIVEN}
    if before.ablated:
        ratios["net"] = boot.ratio(drop - (before.unmodified - before.ablated[index]), gain)
    for name, field in ((RANDOM, "over_random"), (MATCHED, "over_matched")):
        control = _control(subspaces, index, name)
        if control is not None:
            ratios[field] = boot.ratio(after.ablated[control] - after.ablated[index], gain)
    fields: dict[str, Any] = {"reason": share.reason}
    for name, (value, low, high) in means.items():
        fields |= {name: value, f"{name}_low": low, f"{name}_high": high}
    for name, found in ratios.items():
        key = "net_share" if name == "net" else name
        fields |= {key: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return fields


def _control(subspaces: Sequence[NamedSubspace], index: int, name: str) -> int | None:
    """The place of a subspace's control; None where it has none or is one itself."""
    one = subspaces[index]
    places = (
        place
        for place, other in enumerate(subspaces)
        if (other.name, other.control_of, other.k) == (name, one.name, one.k)
    )
    return None if one.control_of else next(places, None)
