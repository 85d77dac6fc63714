"""Synthetic rows about the inside of the models, with planted effects, for the figure tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lpa_interp.records import (
    ActivationShift,
    DirectionAngle,
    DirectionStability,
    DoseEffect,
    MediatedShare,
    PatchEffect,
    ProbeScore,
    ProbeTransfer,
    SubspaceAngle,
    WeightAlignment,
)

COVARIANCE = "random with the activations' covariance"
NULLS = {"labels permuted by facet": 0.16, "random": 0.08, COVARIANCE: 0.24}
"""Nulls with the half width of their bands."""

PAIRS = {"trait|refusal": 0.3, "trait|harmfulness": -0.35, "refusal|harmfulness": 0.75,
         "shift|refusal": 0.5, "shift|trait": 0.1}  # fmt: skip
"""Pairs of directions with the height of their cosine."""

GAIN = {"harmful": 1.24, "harmless": 0.03}
"""Refusal gained by training, nats: clear on one side only."""


def inside_rows(layers: int = 4) -> dict[str, list[Any]]:
    """Rows for the fields of `RunRows` that are about the inside, by field name."""
    return {
        "transfer": list(transfers()),
        "stability": list(stabilities(layers)),
        "trait_angles": list(other_traits(layers)),
        "subspace_angles": list(subspace_overlaps(layers)),
        "weight_alignments": list(alignments(layers)),
        "activation_shifts": list(activation_shifts(layers)),
        "mediated_shares": list(shares()),
        "doses": list(doses()),
        "patches": list(patches(layers)),
    }


def transfers(
    sets: tuple[str, ...] = ("builtin", "ipip:agreeableness", "requests"),
) -> Iterator[ProbeTransfer]:
    """Every set against every set: the first two read each other, the last is apart."""
    for model in ("base", "lpa"):
        for row, train in enumerate(sets):
            for column, test in enumerate(sets):
                near = 0.86 - 0.07 * abs(row - column)
                apart = (row == len(sets) - 1) != (column == len(sets) - 1)
                value = near if not apart else (0.31 if row else 0.53)
                value += 0.03 * (model == "lpa")
                p_value = 0.005 if abs(value - 0.5) > 0.1 else 0.4
                yield ProbeTransfer(
                    model=model,  # type: ignore[arg-type]
                    method="mean_difference",
                    hook_name="blocks.2.hook_resid_pre",
                    layer=2,
                    position=-5,
                    train=train,
                    test=test,
                    auroc=value,
                    low=value - 0.08,
                    high=min(1.0, value + 0.08),
                    p_value=p_value,
                    p_adjusted=None if train == test else 1.5 * p_value,
                    n_train=80 + 20 * row,
                    n_test=80 + 20 * column,
                    n_test_groups=20,
                    n_shared_groups=20 if train == test else 0,
                    n_folds=5 if train == test else 1,
                    n_permutations=200,
                    seed=3,
                )


def sweep(
    layers: int,
    targets: tuple[str, ...] = ("trait", "harmfulness"),
    methods: tuple[str, ...] = ("mean_difference", "logistic"),
) -> Iterator[ProbeScore]:
    """All measures and controls of a probe sweep, with the nested score at the end."""
    rng = np.random.default_rng(11)
    measures = [("auroc", "none"), ("auroc", "shuffled"), ("auroc", "control_task"),
                ("auroc_selectivity", "control_task"), ("balanced_accuracy", "none"),
                ("balanced_accuracy", "shuffled"),
                ("balanced_accuracy_selectivity", "control_task")]  # fmt: skip
    for model in ("base", "lpa"):
        for target in targets:
            for method in methods:
                common: dict[str, Any] = {"model": model, "target": target, "method": method}
                common |= {"position": -5, "n": 80, "n_groups": 20, "n_folds": 5, "seed": 3}
                for layer in range(1, layers + 1):
                    rise = 0.34 * (1 - float(np.exp(-4 * layer / layers))) + 0.02 * (model == "lpa")
                    place = {"hook_name": f"blocks.{layer}.hook_resid_pre", "layer": layer}
                    for measure, control in measures:
                        value = {"none": 0.5 + rise, "shuffled": 0.5, "control_task": 0.61}[control]
                        value = 0.8 * rise if measure.endswith("selectivity") else value
                        value += float(rng.normal(0, 0.012))
                        ends = {"low": value - 0.07, "high": min(1.0, value + 0.07)}
                        about: dict[str, Any] = {"measure": measure, "control": control}
                        yield ProbeScore(value=value, **ends, **about, **place, **common)
                where = {"hook_name": "chosen", "layer": layers - 1, "measure": "auroc_nested"}
                for control, value in (("none", 0.79), ("shuffled", 0.5)):
                    ends = {"low": value - 0.1, "high": value + 0.09}
                    p_value = 0.01 if control == "none" else None
                    about = {"control": control, "p_value": p_value}
                    yield ProbeScore(value=value, **ends, **about, **where, **common)


def stabilities(layers: int) -> Iterator[DirectionStability]:
    """Split-half cosines that rise with the layer, clear of their null from the second on."""
    for model in ("base", "lpa"):
        for layer in range(1, layers + 1):
            cosine = 0.75 * (1 - float(np.exp(-3 * layer / layers)))
            yield DirectionStability(
                model=model,  # type: ignore[arg-type]
                target="trait",
                method="mean_difference",
                hook_name=f"blocks.{layer}.hook_resid_pre",
                layer=layer,
                position=-5,
                cosine=cosine,
                low=cosine - 0.12,
                high=cosine + 0.1,
                null_mean=0.1,
                null_low=-0.1,
                null_high=0.33,
                p_value=0.01,
                p_adjusted=0.02 if cosine > 0.4 else 0.2,
                n=80,
                n_groups=20,
                n_splits=20,
                n_permutations=100,
                seed=3,
            )


def angles(layers: int, frames: bool = False) -> Iterator[DirectionAngle]:
    """Five pairs against three nulls; the shift only in lpa, with ``frames`` in base too."""
    rng = np.random.default_rng(5)
    for pair, height in PAIRS.items():
        first, second = pair.split("|")
        places = [("base", "base"), ("lpa", "lpa")]
        if first == "shift":
            places = [("lpa", "lpa"), ("lpa", "base")] if frames else [("lpa", "lpa")]
        for model, frame in places:
            for layer in range(1, layers + 1):
                cosine = height * float(np.sin(np.pi * layer / (layers + 1))) + rng.normal(0, 0.02)
                for null, half in NULLS.items():
                    if null == "labels permuted by facet" and first == "shift":
                        continue
                    p_value = 0.002 if abs(cosine) > half else 0.4
                    yield DirectionAngle(
                        model=model,  # type: ignore[arg-type]
                        frame=frame,  # type: ignore[arg-type]
                        first=first,
                        second=second,
                        hook_name=f"blocks.{layer}.hook_resid_pre",
                        layer=layer,
                        cosine=float(cosine),
                        null=null,
                        null_low=-half,
                        null_high=half,
                        p_value=p_value,
                        p_adjusted=2 * p_value,
                        n_permutations=500,
                        n_first=80,
                        n_second=128,
                        seed=3,
                        low=float(cosine) - 0.06,
                        high=float(cosine) + 0.12,
                        level=0.95,
                    )


OTHER_TRAITS = {"ipip:high agreeableness": -0.25, "persona:low narcissism": -0.1,
                "persona_vectors:not evil": -0.5}  # fmt: skip
"""Sets of public texts with the height of their direction's cosine with refusal."""


def other_traits(layers: int) -> Iterator[DirectionAngle]:
    """Traits of public texts against refusal: two leave every null, one does not."""
    for first, height in OTHER_TRAITS.items():
        for model in ("base", "lpa"):
            for layer in range(1, layers + 1):
                cosine = height * float(np.sin(np.pi * layer / (layers + 1)))
                for null, half in NULLS.items():
                    p_value = 0.002 if abs(cosine) > half else 0.4
                    yield DirectionAngle(
                        model=model,  # type: ignore[arg-type]
                        frame=model,  # type: ignore[arg-type]
                        first=first,
                        second="refusal",
                        hook_name=f"blocks.{layer}.hook_resid_pre",
                        layer=layer,
                        cosine=cosine,
                        null=null,
                        null_low=-half,
                        null_high=half,
                        p_value=p_value,
                        p_adjusted=2 * p_value,
                        n_permutations=500,
                        n_first=48,
                        n_second=128,
                        seed=3,
                        low=cosine - 0.1,
                        high=cosine + 0.1,
                        level=0.95,
                    )


def subspace_overlaps(layers: int) -> Iterator[SubspaceAngle]:
    """Trait and refusal subspaces that overlap a little more than random ones."""
    for model in ("base", "lpa"):
        for layer in range(1, layers + 1):
            for null, high in (("random", 0.02), (COVARIANCE, 0.2)):
                overlap = 0.1 + 0.2 * layer / layers
                yield SubspaceAngle(
                    model=model,  # type: ignore[arg-type]
                    first="trait",
                    second="refusal",
                    layer=layer,
                    k_first=4,
                    k_second=1,
                    overlap=overlap,
                    largest_cosine=overlap**0.5,
                    null=null,
                    null_low=high / 10,
                    null_high=high,
                    p_value=0.004,
                    p_adjusted=0.01 if overlap > high else 0.3,
                    n_null=500,
                    seed=3,
                )


def alignments(layers: int) -> Iterator[WeightAlignment]:
    """Updates that write along the trait direction in upper layers, and read along nothing."""
    rng = np.random.default_rng(9)
    sides = dict.fromkeys(("q", "k", "v", "up", "gate"), "reads") | dict.fromkeys(
        ("o", "down"), "writes"
    )
    for direction in ("trait", "refusal"):
        for layer in range(layers):
            for role, side in sides.items():
                share = 0.002 * float(np.exp(rng.normal(0, 0.6)))
                share *= 1 + 14 * (direction == "trait" and side == "writes") * layer / layers
                for null, high in (("random", 0.006), (COVARIANCE, 0.011)):
                    yield WeightAlignment(
                        layer=layer,
                        role=role,
                        side=side,
                        direction=direction,
                        k=1,
                        share=share,
                        expected=1 / 576,
                        null=null,
                        null_low=0.0002,
                        null_high=high,
                        p_value=0.004 if share > high else 0.3,
                        p_adjusted=0.02 if share > high else 0.5,
                        rank=16,
                        top_singular_share=0.4,
                        n_null=500,
                        seed=3,
                    )


GROUPS = {"statements": 0.3, "harmful": 0.2, "benign": 0.12, "neutral": 0.03}
"""Groups of texts with the size of their shift at the last layer."""


def activation_shifts(layers: int) -> Iterator[ActivationShift]:
    """Texts that move more the nearer they are to the statements, towards refusal."""
    flipped = "signs flipped"
    for group, size in GROUPS.items():
        for layer in range(1, layers + 1):
            moved = size * (layer / layers) ** 1.5
            kinds = [("cka", "", 1 - moved / 2, moved / 8, "texts permuted", 0.2)]
            kinds += [("relative_shift", "", moved, 0.1 * moved, flipped, 0.3 * moved)]
            for direction, share in (("trait", -0.1), ("refusal", 0.35)):
                for null in ("random", COVARIANCE):
                    half = moved * (0.06 if null == "random" else 0.2)
                    kinds += [("shift_along", direction, share * moved, 0.03 * moved, null, half)]
                    kinds += [("shift_share", direction, share**2, 0.02, null, 0.02)]
            for measure, direction, value, half, null, band in kinds:
                yield ActivationShift(
                    group=group,
                    hook_name=f"blocks.{layer}.hook_resid_pre",
                    layer=layer,
                    position=-1,
                    measure=measure,
                    direction=direction,
                    value=value,
                    low=value - half,
                    high=value + half,
                    null=null,
                    null_low=-band if measure == "shift_along" else 0.0,
                    null_high=band,
                    p_value=0.004 if abs(value) > band else 0.3,
                    p_adjusted=0.01 if abs(value) > band else 0.4,
                    n=80,
                    n_blocks=80,
                    n_null=500,
                    n_bootstrap=1000,
                    seed=3,
                    source="alpaca" if group == "neutral" else "builtin",
                )


def shares(dimensions: tuple[int, ...] = (1, 2, 4, 8)) -> Iterator[MediatedShare]:
    """Trait subspaces that carry a little, a refusal direction that carries nearly all."""
    parts = [("trait", k, 0.06 + 0.24 * (1 - 2.0 ** (1 - k))) for k in dimensions]
    for side, gain in GAIN.items():
        for name, k, share in [*parts, ("refusal", 1, 0.94)]:
            controls = {"": share, "random": 0.004 * k, "random_matched": 0.012 * k + 0.02}
            for control, value in controls.items():
                yield _share(side, gain, name, k, control, value)


def _share(side: str, gain: float, name: str, k: int, control: str, value: float) -> MediatedShare:
    clear = gain > 0.1
    half = 0.05 + 0.07 * value

    def ratio(prefix: str, share: float | None) -> dict[str, float | None]:
        ends = (None, None) if share is None else (share - half, share + half)
        name = "net_share" if prefix == "net" else prefix
        return {name: share, f"{prefix}_low": ends[0], f"{prefix}_high": ends[1]}

    given = clear and not control
    kl = 1.6 if (name, k, control) == ("trait", 8, "") else 0.01 * k
    return MediatedShare(
        first="base",
        second="lpa",
        ablated=control or name,
        control_of=name if control else "",
        k=k,
        side=side,  # type: ignore[arg-type]
        gain=gain,
        gain_low=gain - 0.16,
        gain_high=gain + 0.18,
        drop=value * gain,
        drop_low=(value - half) * gain,
        drop_high=(value + half) * gain,
        **ratio("share", value if clear else None),
        **ratio("net", 0.7 * value if clear else None),
        **ratio("over_random", value - 0.004 * k if given else None),
        **ratio("over_matched", value - 0.012 * k - 0.02 if given else None),
        reason="" if clear else "no clear gain: 0.03 nats, -0.13 to 0.21",
        removed_norm_share=0.01 + 0.004 * k,
        kl=kl + 0.3 * value,
        kl_harmless=kl,
        damaged=kl > 1,
        n=96,
        n_draws=8 if control else 1,
        seed=3,
        level=0.95,
    )


def doses() -> Iterator[DoseEffect]:
    """Refusal that follows the refusal direction, hardly the trait, and no random direction."""
    slopes = {("trait", ""): 0.35, ("refusal", ""): 1.9, ("random", "trait"): 0.0,
              ("random", "refusal"): -0.05}  # fmt: skip
    for model, lean in (("base", 0.0), ("lpa", 0.8)):
        for side, start in (("harmful", 1.0), ("harmless", -2.0)):
            for (direction, control_of), slope in slopes.items():
                amounts: list[tuple[Any, float]] = [("add", d) for d in (-2, -1, -0.5, 0.5, 1, 2)]
                amounts += [("ablate", f) for f in (0.25, 0.5, 0.75, 1.0)]
                for intervention, dose in amounts:
                    size = dose if intervention == "add" else -1.2 * dose
                    change = 2.5 * float(np.tanh(slope * size / 2))
                    yield DoseEffect(
                        model=model,  # type: ignore[arg-type]
                        direction=direction,
                        control_of=control_of,
                        intervention=intervention,
                        dose=float(dose),
                        layer=12 if "trait" in (direction, control_of) else 15,
                        side=side,  # type: ignore[arg-type]
                        refusal_log_odds=start + lean + change,
                        low=start + lean + change - 0.3,
                        high=start + lean + change + 0.3,
                        change=change,
                        change_low=change - 0.2,
                        change_high=change + 0.2,
                        kl=0.02 * dose**2 + 0.25 * change**2 + 0.05 * dose**4 * bool(slope > 1),
                        n=64,
                        n_draws=8 if direction == "random" else 1,
                        seed=3,
                        level=0.95,
                    )


def patches(layers: int) -> Iterator[PatchEffect]:
    """Refusal that is there from the middle layers on; the harmless side has no gain."""
    heights = {"none": 0.95, "mismatched": 0.7, "own_mismatched": 0.02}
    for direction in ("trained into base", "base into trained"):
        for layer in range(layers):
            risen = 1 / (1 + float(np.exp(-10 * ((layer + 1) / layers - 0.5))))
            for positions, reach in (("last", 0.8), ("post_instruction", 1.0)):
                for control, height in heights.items():
                    for side, gain in GAIN.items():
                        value = height * reach * risen
                        clear = gain > 0.1
                        yield PatchEffect(
                            direction=direction,  # type: ignore[arg-type]
                            layer=layer,
                            positions=positions,  # type: ignore[arg-type]
                            control=control,  # type: ignore[arg-type]
                            side=side,  # type: ignore[arg-type]
                            refusal_log_odds=value * gain,
                            low=value * gain - 0.2,
                            high=value * gain + 0.2,
                            recovered=value if clear else None,
                            recovered_low=value - 0.1 if clear else None,
                            recovered_high=value + 0.1 if clear else None,
                            reason="" if clear else "no clear gain: 0.03 nats, -0.13 to 0.21",
                            kl=0.3 * value,
                            n=64,
                            seed=3,
                            level=0.95,
                        )
