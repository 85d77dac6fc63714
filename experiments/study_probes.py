"""The probe stage: trait probes of each model, their controls, and the directions they give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.reads import SIDES, measured_activations, statement_activations
from experiments.study_traits import (
    TraitReading,
    directions_of,
    other_traits,
    read_set,
    set_rows,
    stability_of,
)
from experiments.workbench import Workbench
from lpa_interp.records import (
    Direction,
    DirectionStability,
    ModelLabel,
    ProbeScore,
    ProbeTransfer,
    Projection,
)
from lpa_interp.runs import write_rows

if TYPE_CHECKING:
    from probes.activations import Activations


def explain_traits(bench: Workbench) -> None:
    """Probes both models and writes scores, directions, projections and transfer."""
    from probes import save_directions

    scores: list[ProbeScore] = []
    directions: list[Direction] = []
    projections: list[Projection] = []
    stabilities: list[DirectionStability] = []
    transfers: list[ProbeTransfer] = []
    for label in ("base", "lpa"):
        activations = statement_activations(bench, label)
        bench.tell.say(f"  {label}: probing {len(activations.hook_names)} layers")
        sweep, found = probe_traits(bench, label, activations)
        chosen = next(d for d in found if d.name == "trait" and d.layer == layer_of_best(sweep))
        projections += project_all(bench, label, activations, chosen)
        trait = trait_reading(bench, activations)
        others = other_traits(bench, label)
        stabilities += [row for r in (trait, *others) for row in stability_of(bench, r, label)]
        cells, of_sets = transfer_between_sets(bench, label, chosen)
        transfers += cells
        scores += sweep
        of_others = [d for reading in others for d in directions_of(reading, label)]
        names = {reading.name for reading in others}
        directions += [*found, *of_others, *(d for d in of_sets if d.name not in names)]
    folder = bench.run / "probes"
    write_rows(folder / "scores.jsonl", scores)
    write_rows(folder / "projections.jsonl", projections)
    write_rows(folder / "stability.jsonl", stabilities)
    write_rows(folder / "transfer.jsonl", transfers)
    save_directions(folder / "trait_directions.safetensors", directions)


def trait_reading(bench: Workbench, activations: Activations) -> TraitReading:
    """The study's own statements, positive against negative traits."""
    from probes import statement_labels

    labels, groups = statement_labels(bench.trait_statements)
    return TraitReading("trait", activations, labels, tuple(groups))


def layer_of_best(scores: list[ProbeScore]) -> int:
    """The layer whose mean-difference probe does best on held-out facets."""
    from probes import best_layer

    return best_layer([row for row in scores if row.measure == "auroc" and row.target == "trait"])


def probe_traits(
    bench: Workbench, label: ModelLabel, activations: Activations
) -> tuple[list[ProbeScore], list[Direction]]:
    """The sweep over layers, the nested score, the check on keying, and the directions."""
    from probes import (
        keying_scores,
        nested_score,
        probe_sweep,
        statement_labels,
        trait_directions,
    )

    config, seed = bench.study.probes, bench.study.seed
    labels, groups = statement_labels(bench.trait_statements)
    position = activations.positions[0]
    scores = probe_sweep(
        activations,
        labels,
        groups,
        model=label,
        methods=config.methods,
        measures=("auroc", "balanced_accuracy"),
        controls=("shuffled", "control_task"),
        n_folds=config.n_folds,
        seed=seed,
    )
    best = f"blocks.{layer_of_best(scores)}.hook_resid_pre"
    scores += nested_score(
        activations,
        labels,
        groups,
        model=label,
        n_folds=config.n_folds,
        n_permutations=config.nested_permutations,
        seed=seed,
    ).rows
    if bench.study.traits.source == "builtin":
        scores += keying_scores(
            activations,
            bench.trait_statements,
            best,
            model=label,
            position=position,
            n_folds=config.n_folds,
            seed=seed,
        )
    return scores, trait_directions(activations, labels, model=label, position=position)


def transfer_between_sets(
    bench: Workbench, label: ModelLabel, chosen: Direction
) -> tuple[list[ProbeTransfer], list[Direction]]:
    """Probes of each text set read on every other at the chosen layer, and their directions."""
    from probes import trait_set_sources, transfer_matrix

    there = {row["name"]: row for row in trait_set_sources()}
    sets: dict[str, TraitReading] = {}
    for name in bench.study.probes.transfer_sets:
        if not there[name]["available"]:
            bench.tell.say(f"  skipped {name}: {there[name]['reason']}")
            continue
        sets[name] = read_set(bench, label, *set_rows(bench, label, name))
    directions = [
        direction
        for name, reading in sets.items()
        if name != "builtin"  # the trait direction itself
        for direction in directions_of(reading, label)
    ]
    if len(sets) < 2:
        return [], directions
    cells = transfer_matrix(
        {name: (r.activations, r.labels, r.groups) for name, r in sets.items()},
        model=label,
        hook_name=chosen.hook_name,
        position={name: reading.position for name, reading in sets.items()},
        n_folds=bench.study.probes.n_folds,
        n_permutations=bench.study.probes.nested_permutations,
        seed=bench.study.seed,
    )
    return cells, directions


def project_all(
    bench: Workbench, label: ModelLabel, activations: Activations, direction: Direction
) -> list[Projection]:
    """Statements and test requests along a trait direction."""
    from probes import class_midpoint, project, statement_labels

    name, position = direction.hook_name, direction.position
    labels, _ = statement_labels(bench.trait_statements)
    read = activations.at(name, position)
    midpoint = class_midpoint(read[labels], read[~labels])
    groups = [f"{statement.side}_trait" for statement in bench.trait_statements]
    ids = [statement.id for statement in bench.trait_statements]
    rows = project(read, direction, midpoint, groups=groups, text_ids=ids)
    requests = bench.requests("test", bench.study.probes.ablation_prompts)
    seen = measured_activations(bench, label)
    for side in SIDES:
        ids = [prompt.id for prompt in requests[side]]
        values = seen[side].at(name, position)
        rows += project(values, direction, midpoint, groups=[side] * len(ids), text_ids=ids)
    return rows
