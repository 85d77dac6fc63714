"""How the directions lie to each other, and where training moved the model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.reads import (
    SIDES,
    neutral_activations,
    request_activations,
    statement_activations,
)
from experiments.study_probes import trait_reading
from experiments.study_refusal import RefusalRows
from experiments.study_traits import other_traits
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
    from lpa_interp.records import PromptSide
    from probes.activations import Activations
    from probes.families import DirectionFamily, LabelledTexts

SUBSPACE_SIZE = 4


def explain_geometry(
    bench: Workbench, traits: Sequence[Direction], parts: Mapping[ModelLabel, RefusalRows]
) -> list[Direction]:
    """Writes angles, subspace overlaps, shifts and weight alignments; the new directions."""
    from probes import direction_family, shift_directions

    bench.tell.say("  geometry: angles, shifts and weights against their nulls")
    reads = {label: request_activations(bench, label, "validation") for label in parts}
    statements = {label: statement_activations(bench, label) for label in parts}
    shifts = shift_directions(reads["base"]["harmful"], reads["lpa"]["harmful"], split="validation")
    moved = shifted_texts(reads)
    harm: list[Direction] = []
    angles: list[DirectionAngle] = []
    of_traits: list[DirectionAngle] = []
    overlaps: list[SubspaceAngle] = []
    for label, part in parts.items():
        harmfulness, families = request_families(bench, label, part)
        families.append(direction_family(shifts, moved))
        harm += harmfulness
        main, others = angles_of(bench, label, statements[label], families, reads[label])
        angles += main
        of_traits += others
        overlaps += overlaps_of(bench, label, statements[label], reads[label])
    folder = bench.run / "probes"
    write_rows(folder / "angles.jsonl", angles)
    write_rows(folder / "trait_angles.jsonl", of_traits)
    write_rows(folder / "subspace_angles.jsonl", overlaps)
    chosen = [d for d in traits if (d.model, d.name) == ("base", "trait")] + parts["base"].by_layer
    write_rows(folder / "activation_shifts.jsonl", shifts_of(bench, statements, reads, chosen))
    write_rows(folder / "weight_alignment.jsonl", alignments_of(bench, chosen, reads["base"]))
    return [*shifts, *harm]


def request_families(
    bench: Workbench, label: ModelLabel, part: RefusalRows
) -> tuple[list[Direction], list[DirectionFamily]]:
    """Harmfulness directions, and the families of refusal and harmfulness with their texts.

    Both are harmful minus harmless requests: refusal at the position that the search chose, and
    harmfulness at the last instruction token, where harm is seen and not yet refused.
    """
    from probes import direction_family, instruction_end, trait_directions

    with bench.model(label) as model:
        end = instruction_end(model)
    place = part.by_layer[0].position if part.by_layer else -1
    limit = bench.study.probes.refusal_train
    read = request_activations(bench, label, "organism", (place, end), limit)
    both, harmful = joined(read)
    harmfulness = trait_directions(
        both, harmful, model=label, position=end, name="harmfulness", split="organism"
    )
    # A pair of matched requests is drawn together, at both positions.
    pairs = [f"organism {index}" for side in SIDES for index in range(read[side].n)]
    families = [
        direction_family(found, texts_at(both, position, harmful, pairs))
        for found, position in ((part.by_layer, place), (harmfulness, end))
        if found
    ]
    return harmfulness, families


def joined(read: Mapping[PromptSide, Activations]) -> tuple[Activations, np.ndarray]:
    """Both sides as one reading, and which of its texts are harmful."""
    from probes import Activations

    one = read["harmful"]
    values = {name: np.concatenate([read[s].values[name] for s in SIDES]) for name in one.values}
    harmful = np.repeat([True, False], [read[side].n for side in SIDES])
    return Activations(values, one.positions), harmful


def texts_at(
    read: Activations, position: int, labels: np.ndarray, groups: Sequence[str]
) -> LabelledTexts:
    """Labelled texts at one position, at every hook point."""
    from probes.families import LabelledTexts

    values = {name: read.at(name, position) for name in read.hook_names}
    return LabelledTexts(values, labels, groups)


def shifted_texts(
    reads: Mapping[ModelLabel, Mapping[PromptSide, Activations]],
) -> LabelledTexts:
    """How far each harmful request moved, lpa minus base: its mean is the shift."""
    from probes.families import LabelledTexts

    base, lpa = (reads[label]["harmful"] for label in ("base", "lpa"))
    values = {
        name: lpa.at(name).astype(np.float64) - base.at(name).astype(np.float64)
        for name in base.hook_names
    }
    groups = [f"validation {index}" for index in range(base.n)]
    return LabelledTexts(values, np.ones(base.n, dtype=bool), groups)


def angles_of(
    bench: Workbench,
    label: ModelLabel,
    statements: Activations,
    rest: Sequence[DirectionFamily],
    reads: Mapping[PromptSide, Activations],
) -> tuple[list[DirectionAngle], list[DirectionAngle]]:
    """Cosines by layer: every pair of the four directions, and each other trait with refusal.

    Traits stand against three nulls; the rest, which have no facets to permute, against two.
    """
    from probes import direction_angles
    from probes.nulls import NULLS, RANDOM_NULLS

    both, _ = joined(reads)
    common: Any = {"model": label, "seed": bench.study.seed}
    common |= {"residuals": {hook: both.at(hook) for hook in both.hook_names}}
    common |= {"n_null": bench.study.probes.n_permutations}
    trait = trait_reading(bench, statements).family()
    rows = []
    for first, second in itertools.combinations((trait, *rest), 2):
        nulls = NULLS if first is trait else RANDOM_NULLS
        rows += direction_angles(first, second, nulls=nulls, **common)
    others = [reading.family() for reading in other_traits(bench, label, tell=False)]
    refusal = [family for family in rest if family.name == "refusal"]
    with_refusal = [
        row
        for first, second in itertools.product(others, refusal)
        for row in direction_angles(first, second, **common)
    ]
    return rows, with_refusal


def overlaps_of(
    bench: Workbench,
    label: ModelLabel,
    statements: Activations,
    reads: Mapping[PromptSide, Activations],
) -> list[SubspaceAngle]:
    """Overlap of the trait subspace with that of harmful against harmless requests."""
    from lpa_interp.hooks import layer_of
    from probes import statement_labels, subspace_angles, top_k_subspace

    labels, groups = statement_labels(bench.trait_statements)
    both, harmful = joined(reads)
    pairs = [f"request {index}" for side in SIDES for index in range(reads[side].n)]
    traits, requests, residuals = {}, {}, {}
    for hook in statements.hook_names:
        values = both.at(hook)
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
    reads: Mapping[ModelLabel, Mapping[PromptSide, Activations]],
    directions: Sequence[Direction],
) -> list[ActivationShift]:
    """Where training moved the residual stream: statements, requests and neutral prompts."""
    from probes import representation_shifts, statement_labels

    _, facets = statement_labels(bench.trait_statements)
    common: Any = {"seed": bench.study.seed, "n_null": bench.study.probes.n_permutations}
    rows = representation_shifts(
        statements["base"],
        statements["lpa"],
        "statements",
        source=bench.trait_source,
        blocks=facets,
        position=statements["base"].positions[0],
        **common,
    )
    common["directions"] = [d for d in directions if d.layer >= moved_from(reads)]
    for side in SIDES:
        pair = (reads["base"][side], reads["lpa"][side])
        rows += representation_shifts(*pair, side, source="requests, validation", **common)
    (base, source), (lpa, _) = (neutral_activations(bench, label) for label in ("base", "lpa"))
    return rows + representation_shifts(base, lpa, "neutral", source=source, **common)


def moved_from(reads: Mapping[ModelLabel, Mapping[PromptSide, Activations]]) -> int:
    """The first layer whose residual stream training moved at the last prompt token."""
    from lpa_interp.hooks import layer_of

    base, lpa = reads["base"]["harmful"], reads["lpa"]["harmful"]
    moved = [n for n in base.hook_names if not np.array_equal(base.at(n), lpa.at(n))]
    return layer_of(moved[0]) if moved else len(base.hook_names) + 1


def alignments_of(
    bench: Workbench, directions: Sequence[Direction], reads: Mapping[PromptSide, Activations]
) -> list[WeightAlignment]:
    """How much of each low-rank update lies along the base model's directions."""
    from lpa_interp.hooks import layer_of
    from probes import weight_alignments

    if not any(bool(update.b.any()) for update in bench.adapter.updates.values()):
        return []  # nothing was trained
    by_name: dict[str, dict[int, np.ndarray]] = {}
    for direction in directions:
        by_name.setdefault(direction.name, {})[direction.layer] = direction.vector
    both, _ = joined(reads)
    residuals = {layer_of(hook): both.at(hook) for hook in both.hook_names}
    with bench.model("lpa") as model:
        return weight_alignments(
            model,
            bench.adapter,
            by_name,
            residuals=residuals,
            n_null=bench.study.probes.n_permutations,
            seed=bench.study.seed,
        )
