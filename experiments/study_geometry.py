"""How the directions lie to each other, and where training moved the model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.study_probes import statement_activations
from experiments.study_refusal import SIDES, RefusalRows, request_rows
from experiments.workbench import Workbench
from lpa_interp.records import (
    ActivationShift,
    Direction,
    DirectionAngle,
    ModelLabel,
    SubspaceAngle,
    WeightAlignment,
)
from lpa_interp.runs import write_rows

if TYPE_CHECKING:
    from probes.activations import Activations
    from probes.families import DirectionFamily

SUBSPACE_SIZE = 4
RESIDUALS = ("blocks.*.hook_resid_pre",)


def explain_geometry(
    bench: Workbench, traits: Sequence[Direction], parts: Mapping[ModelLabel, RefusalRows]
) -> list[Direction]:
    """Writes angles, subspace overlaps, shifts and weight alignments; the new directions."""
    from probes import shift_directions

    bench.tell.say("  geometry: angles, shifts and weights against their nulls")
    reads = {label: request_activations(bench, label, "validation") for label in parts}
    statements = {label: statement_activations(bench, label) for label in parts}
    shifts = shift_directions(reads["base"]["harmful"], reads["lpa"]["harmful"], split="validation")
    harm = {label: harmfulness(bench, label) for label in parts}
    angles: list[DirectionAngle] = []
    overlaps: list[SubspaceAngle] = []
    for label, part in parts.items():
        rest = {"refusal": part.by_layer, "harmfulness": harm[label], "shift": shifts}
        angles += angles_of(bench, label, statements[label], rest, reads[label])
        overlaps += overlaps_of(bench, label, statements[label], reads[label])
    folder = bench.run / "probes"
    write_rows(folder / "angles.jsonl", angles)
    write_rows(folder / "subspace_angles.jsonl", overlaps)
    chosen = [d for d in traits if d.model == "base"] + parts["base"].by_layer
    write_rows(folder / "activation_shifts.jsonl", shifts_of(bench, statements, reads, chosen))
    write_rows(folder / "weight_alignment.jsonl", alignments_of(bench, chosen, reads["base"]))
    return [*shifts, *(direction for found in harm.values() for direction in found)]


def request_activations(bench: Workbench, label: ModelLabel, split: str) -> dict[str, Activations]:
    """The residual stream at the last prompt token of the requests of a split, by side."""
    from lpa_interp.hooks import resolve_hooks
    from probes import collect

    with bench.model(label) as model:
        rows = request_rows(bench, model, split, bench.study.probes.ablation_prompts)
        # Block 0's input at a template token is the same for every prompt.
        names = resolve_hooks(model, RESIDUALS)[1:]
        return {side: collect(model, rows[side], names) for side in SIDES}


def harmfulness(bench: Workbench, label: ModelLabel) -> list[Direction]:
    """Harmful minus harmless at the last instruction token, where harm is seen, not refused."""
    from probes import harmfulness_directions

    with bench.model(label) as model:
        rows = request_rows(bench, model, "organism", bench.study.probes.refusal_train)
        sides = (rows["harmful"], rows["harmless"])
        return harmfulness_directions(model, *sides, label, split="organism")


def angles_of(
    bench: Workbench,
    label: ModelLabel,
    statements: Activations,
    rest: Mapping[str, Sequence[Direction]],
    reads: Mapping[str, Activations],
) -> list[DirectionAngle]:
    """Cosines of every pair by layer: the traits against three nulls, the rest against two."""
    from probes import direction_angles, direction_family, labelled_family, statement_labels
    from probes.nulls import NULLS, RANDOM_NULLS

    labels, groups = statement_labels(bench.trait_statements)
    trait = labelled_family("trait", statements, labels, groups, statements.positions[0])
    families: list[DirectionFamily] = [trait]
    families += [direction_family(found) for found in rest.values() if found]
    both = {
        hook: np.concatenate([reads[side].at(hook) for side in SIDES])
        for hook in reads["harmful"].hook_names
    }
    rows = []
    for first, second in itertools.combinations(families, 2):
        rows += direction_angles(
            first,
            second,
            model=label,
            residuals=both,
            nulls=NULLS if first is trait else RANDOM_NULLS,
            n_null=bench.study.probes.n_permutations,
            seed=bench.study.seed,
        )
    return rows


def overlaps_of(
    bench: Workbench,
    label: ModelLabel,
    statements: Activations,
    reads: Mapping[str, Activations],
) -> list[SubspaceAngle]:
    """Overlap of the trait subspace with that of harmful against harmless requests."""
    from lpa_interp.hooks import layer_of
    from probes import statement_labels, subspace_angles, top_k_subspace

    labels, groups = statement_labels(bench.trait_statements)
    sizes = [reads[side].n for side in SIDES]
    harmful = np.repeat([True, False], sizes)
    pairs = [f"request {index}" for size in sizes for index in range(size)]
    traits, requests, residuals = {}, {}, {}
    for hook in statements.hook_names:
        values = np.concatenate([reads[side].at(hook) for side in SIDES])
        layer, read = layer_of(hook), statements.at(hook, statements.positions[0])
        residuals[layer] = values
        traits[layer] = top_k_subspace(read, labels, groups, SUBSPACE_SIZE).basis
        requests[layer] = top_k_subspace(values, harmful, pairs, SUBSPACE_SIZE).basis
    return subspace_angles(
        traits,
        requests,
        names=("trait", "requests"),
        model=label,
        residuals=residuals,
        n_null=bench.study.probes.n_permutations,
        seed=bench.study.seed,
    )


def shifts_of(
    bench: Workbench,
    statements: Mapping[ModelLabel, Activations],
    reads: Mapping[ModelLabel, Mapping[str, Activations]],
    directions: Sequence[Direction],
) -> list[ActivationShift]:
    """Where training moved the residual stream, on statements and on requests."""
    from probes import representation_shifts, statement_labels

    _, facets = statement_labels(bench.trait_statements)
    seed, n_null = bench.study.seed, bench.study.probes.n_permutations
    rows = representation_shifts(
        statements["base"],
        statements["lpa"],
        "statements",
        blocks=facets,
        position=statements["base"].positions[0],
        n_null=n_null,
        seed=seed,
    )
    first = moved_from(reads)
    along = [d for d in directions if d.layer >= first]
    for side in SIDES:
        pair = (reads["base"][side], reads["lpa"][side])
        rows += representation_shifts(*pair, side, directions=along, n_null=n_null, seed=seed)
    return rows


def moved_from(reads: Mapping[ModelLabel, Mapping[str, Activations]]) -> int:
    """The first layer whose residual stream training moved at the last prompt token."""
    from lpa_interp.hooks import layer_of

    base, lpa = reads["base"]["harmful"], reads["lpa"]["harmful"]
    moved = [n for n in base.hook_names if not np.array_equal(base.at(n), lpa.at(n))]
    return layer_of(moved[0]) if moved else len(base.hook_names) + 1


def alignments_of(
    bench: Workbench, directions: Sequence[Direction], reads: Mapping[str, Activations]
) -> list[WeightAlignment]:
    """How much of each low-rank update lies along the base model's directions."""
    from lpa_interp.hooks import layer_of
    from probes import weight_alignments

    if not any(bool(update.b.any()) for update in bench.adapter.updates.values()):
        return []  # nothing was trained
    by_name: dict[str, dict[int, np.ndarray]] = {}
    for direction in directions:
        by_name.setdefault(direction.name, {})[direction.layer] = direction.vector
    residuals = {
        layer_of(hook): np.concatenate([reads[side].at(hook) for side in SIDES])
        for hook in reads["harmful"].hook_names
    }
    with bench.model("lpa") as model:
        return weight_alignments(
            model,
            bench.adapter,
            by_name,
            residuals=residuals,
            n_null=bench.study.probes.n_permutations,
            seed=bench.study.seed,
        )
