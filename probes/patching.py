"""Activation patching: at which layer, and at which tokens, does the gained refusal sit?

The residual stream of one model is put into the other at one layer, and what refusal then does is
set against the difference between the two models. Activations are read once and handed over as
arrays, since both models may be one HookedTransformer with an adapter switched off and on:

    for label in ("base", "lpa"):
        with bench.model(label) as model:
            acts[label] = patch_activations(model, rows)
    with bench.model("base") as model:
        into_base = patch_scores(model, rows, own=acts["base"], donor=acts["lpa"])
    with bench.model("lpa") as model:
        into_trained = patch_scores(model, rows, own=acts["lpa"], donor=acts["base"])
    effects = patch_effects(into_base, into_trained)

Patches touch the template's tokens after the instruction only. What comes before is run once,
its keys and values kept, and each patch runs these last tokens through the layers above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.chat import Row, post_instruction_row
from lpa_interp.errors import InputError
from lpa_interp.judges import refusal_token_ids
from lpa_interp.model import HookedTransformer
from lpa_interp.records import PatchEffect, PromptSide
from probes.activations import Activations, collect
from probes.ratios import DEFAULT_RESAMPLES, PairedBootstrap
from probes.scoring import finite, kl_from, odds
from probes.suffix import repeated, suffix_batches, suffix_logits

Positions = Literal["last", "post_instruction"]
Control = Literal["none", "mismatched", "own_mismatched"]
POSITIONS: tuple[Positions, ...] = ("last", "post_instruction")
CONTROLS: tuple[Control, ...] = ("none", "mismatched", "own_mismatched")


@dataclass(frozen=True, slots=True)
class PatchScores:
    """Scores of n prompts of one side in one recipient.

    ``unmodified`` is [n]; ``patched`` and ``kl`` are [n_layers, n_positions, n_controls, n], in
    the order of ``layers``, `POSITIONS` and `CONTROLS`; refusal log-odds and KL(unmodified ||
    patched) in nats at the last prompt token. ``seed`` is that of the mismatched pairs.
    """

    layers: tuple[int, ...]
    unmodified: np.ndarray
    patched: np.ndarray
    kl: np.ndarray
    seed: int


def patch_activations(
    model: HookedTransformer,
    rows_by_side: Mapping[PromptSide, Sequence[Row]],
    batch_size: int = 16,
) -> dict[PromptSide, Activations]:
    """The residual stream before each layer at the tokens after the instruction, by side."""
    positions = range(-len(post_instruction_row(model)), 0)
    hooks = ["blocks.*.hook_resid_pre"]
    return {
        side: collect(model, rows, hooks, positions, batch_size)
        for side, rows in rows_by_side.items()
    }


@torch.no_grad()
@parametrize.cached()
def patch_scores(
    model: HookedTransformer,
    rows_by_side: Mapping[PromptSide, Sequence[Row]],
    *,
    own: Mapping[PromptSide, Activations],
    donor: Mapping[PromptSide, Activations],
    layers: Sequence[int] | None = None,
    token_ids: Sequence[int] | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[PromptSide, PatchScores]:
    """Refusal of a recipient with the donor's residual stream put in at each layer in turn.

    Args:
        model: The recipient; no hooks should be open on it.
        rows_by_side: The prompts that both models' activations were read from, in that order.
        own: The recipient's activations, from `patch_activations`.
        donor: The other model's.
        layers: Layers before which to patch; all by default.
        token_ids: Refusal tokens; without them those of `lpa_interp.judges.refusal_token_ids`.
        batch_size: Prompts per forward pass; each is run under all kinds of patch at once.
        seed: Of the pairs of prompts in the mismatched controls.

    Raises:
        InputError: Activations do not fit the prompts, or a layer is out of range.
        NumericalError: A score is NaN or infinite.
    """
    chosen = tuple(range(model.cfg.n_layers) if layers is None else layers)
    if not chosen or not all(0 <= layer < model.cfg.n_layers for layer in chosen):
        raise InputError("layers", f"{chosen} is not allowed", f"0 to {model.cfg.n_layers - 1}")
    ids = list(refusal_token_ids(model) if token_ids is None else token_ids)
    return {
        side: _side_scores(model, rows, (own[side], donor[side]), chosen, ids, batch_size, seed)
        for side, rows in rows_by_side.items()
    }


def _side_scores(
    model: HookedTransformer,
    rows: Sequence[Row],
    sources: tuple[Activations, Activations],
    layers: tuple[int, ...],
    token_ids: Sequence[int],
    batch_size: int,
    seed: int,
) -> PatchScores:
    _check(rows, *sources)
    partners = mismatched(len(rows), seed)
    unmodified = np.empty(len(rows))
    patched, kl = np.empty((2, len(layers), len(POSITIONS), len(CONTROLS), len(rows)))
    top = model.cfg.n_layers - 1
    # Patches at the last token leave all tokens before it as they are, the template's too.
    for at, n_suffix in enumerate((1, len(sources[0].positions))):
        for batch in suffix_batches(model, rows, n_suffix, batch_size):
            chosen = np.asarray(batch.indices)
            as_read = torch.from_numpy(_at(sources[0], top, n_suffix)[chosen][None])
            plain = suffix_logits(model, batch, as_read, top)[0]
            unmodified[chosen] = odds(plain, token_ids)
            log_p, stacked = plain.float().log_softmax(-1), repeated(batch, len(CONTROLS))
            for place, layer in enumerate(layers):
                inserted = _inserted(sources, layer, n_suffix, chosen, partners)
                logits = suffix_logits(model, stacked, inserted, layer)
                patched[place, at, :, chosen] = odds(logits, token_ids).T
                kl[place, at, :, chosen] = kl_from(log_p, logits).T
    return PatchScores(layers, finite(unmodified), finite(patched), finite(kl), seed)


def _check(rows: Sequence[Row], own: Activations, donor: Activations) -> None:
    if len(rows) < 2:
        raise InputError("prompts", "a mismatched control needs two of a side at least")
    if own.n != len(rows) or donor.n != len(rows) or own.hook_names != donor.hook_names:
        raise InputError("activations", "were not read from these prompts at the same hook points")
    if own.positions != donor.positions or own.positions[-1] != -1:
        raise InputError("activations", "were not read at the same positions up to the last token")


def mismatched(n: int, seed: int) -> Int[np.ndarray, " n"]:
    """Another prompt for each prompt, each used once: one random cycle through all."""
    order = np.random.default_rng(seed).permutation(n)
    partners = np.empty(n, dtype=np.int64)
    partners[order] = np.roll(order, -1)
    return partners


def _at(source: Activations, layer: int, n_suffix: int) -> Float32[np.ndarray, "n suffix d_model"]:
    values: np.ndarray = source.values[f"blocks.{layer}.hook_resid_pre"][:, -n_suffix:]
    return values


def _inserted(
    sources: tuple[Activations, Activations],
    layer: int,
    n_suffix: int,
    chosen: Int[np.ndarray, " prompts"],
    partners: Int[np.ndarray, " n"],
) -> Float[Tensor, "controls prompts suffix d_model"]:
    """What is put in place of the recipient's residual stream, in the order of `CONTROLS`."""
    own, donor = (_at(source, layer, n_suffix) for source in sources)
    kinds = donor[chosen], donor[partners[chosen]], own[partners[chosen]]
    return torch.from_numpy(np.stack(kinds))


def patch_effects(
    into_base: Mapping[PromptSide, PatchScores],
    into_trained: Mapping[PromptSide, PatchScores],
    *,
    level: float = 0.95,
    n_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> list[PatchEffect]:
    """What each patch recovers of the refusal gain, both ways, with intervals over prompts.

    Args:
        into_base: Scores of the base model with the trained model's activations.
        into_trained: Scores of the trained model with the base model's, on the same prompts.
        level: Of the intervals.
        n_resamples: Resamples of the prompts.
        seed: Of the resamples.

    Raises:
        InputError: The two do not hold the same sides and numbers of prompts.
    """
    sizes = [{side: len(s.unmodified) for side, s in x.items()} for x in (into_base, into_trained)]
    if sizes[0] != sizes[1]:
        raise InputError("scores", "the two models were not scored on the same prompts")
    rows: list[PatchEffect] = []
    for side, base in into_base.items():
        trained = into_trained[side]
        gain = trained.unmodified - base.unmodified
        boot = PairedBootstrap(len(gain), n_resamples, level, seed)
        about = {"side": side, "n": boot.n, "seed": seed, "level": level}
        rows += _effects(boot, base, 1.0, gain, about | {"direction": "trained into base"})
        rows += _effects(boot, trained, -1.0, gain, about | {"direction": "base into trained"})
    return rows


def _effects(
    boot: PairedBootstrap,
    scores: PatchScores,
    sign: float,
    gain: Float[np.ndarray, " n"],
    about: dict[str, Any],
) -> list[PatchEffect]:
    """Rows of one recipient; ``sign`` is that of the change which makes up the difference."""
    found = []
    for place, at, which in np.ndindex(scores.patched.shape[:3]):
        values = scores.patched[place, at, which]
        mean, low, high = boot.mean(values)
        recovered = boot.ratio(sign * (values - scores.unmodified), gain)
        found.append(
            PatchEffect(
                **about,
                layer=scores.layers[place],
                positions=POSITIONS[at],
                control=CONTROLS[which],
                refusal_log_odds=mean,
                low=low,
                high=high,
                recovered=recovered.value,
                recovered_low=recovered.low,
                recovered_high=recovered.high,
                reason=recovered.reason,
                kl=float(scores.kl[place, at, which].mean()),
            )
        )
    return found
