"""The probe stage: trait probes of each model, their controls, and the directions they give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.workbench import Workbench
from lpa_interp.records import (
    Direction,
    DirectionStability,
    ModelLabel,
    ProbeScore,
    ProbeTransfer,
    Projection,
    PromptSide,
)
from lpa_interp.runs import write_rows

if TYPE_CHECKING:
    from probes.activations import Activations

STATEMENT_HOOKS = ("blocks.*.hook_resid_pre",)
"""Trait directions are read where refusal directions are: at the input of each block."""


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
        stabilities += stability_of(bench, label, activations)
        cells, others = transfer_between_sets(bench, label, chosen)
        transfers += cells
        scores += sweep
        directions += [*found, *others]
    folder = bench.run / "probes"
    write_rows(folder / "scores.jsonl", scores)
    write_rows(folder / "projections.jsonl", projections)
    write_rows(folder / "stability.jsonl", stabilities)
    write_rows(folder / "transfer.jsonl", transfers)
    save_directions(folder / "trait_directions.safetensors", directions)


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


def stability_of(
    bench: Workbench, label: ModelLabel, activations: Activations
) -> list[DirectionStability]:
    """Cosine of trait directions fitted to two halves of the facets, against its null."""
    from probes import stability_rows, statement_labels

    labels, groups = statement_labels(bench.trait_statements)
    return stability_rows(activations, labels, groups, model=label, seed=bench.study.seed)


def transfer_between_sets(
    bench: Workbench, label: ModelLabel, chosen: Direction
) -> tuple[list[ProbeTransfer], list[Direction]]:
    """Probes of each text set read on every other at the chosen layer, and their directions."""
    from probes import (
        read_text_set,
        trait_direction,
        trait_set,
        trait_set_sources,
        transfer_matrix,
    )

    config = bench.study.probes
    there = {row["name"]: row for row in trait_set_sources()}
    sets, positions = {}, {}
    with bench.model(label) as model:
        for name in config.transfer_sets:
            if not there[name]["available"]:
                bench.tell.say(f"  skipped {name}: {there[name]['reason']}")
                continue
            texts = trait_set(name, config.transfer_limit, bench.study.seed)
            read = read_text_set(model, texts, [chosen.hook_name], config.batch_size)
            sets[name] = (read, texts.labels, texts.groups)
            positions[name] = read.positions[0]
    hook = chosen.hook_name
    directions = [
        trait_direction(read, held, hook, model=label, position=positions[name], name=name)
        for name, (read, held, _) in sets.items()
        if name != "builtin"  # the trait direction itself
    ]
    if len(sets) < 2:
        return [], directions
    cells = transfer_matrix(
        sets,
        model=label,
        hook_name=chosen.hook_name,
        position=positions,
        n_folds=config.n_folds,
        n_permutations=config.nested_permutations,
        seed=bench.study.seed,
    )
    return cells, directions


def statement_activations(bench: Workbench, label: ModelLabel) -> Activations:
    """Activations of every statement at the input of each block, at the study's position."""
    from lpa_interp.chat import post_instruction_row
    from lpa_interp.hooks import resolve_hooks
    from probes import collect, statement_rows

    if label not in bench.statement_reads:
        with bench.model(label) as model:
            rows = statement_rows(model, bench.trait_statements, bench.study.traits.system_prompt)
            # Block 0's input at a template token is the same for every prompt.
            names = resolve_hooks(model, STATEMENT_HOOKS)[1:]
            at_end = bench.study.probes.statement_position == "instruction_end"
            position = -len(post_instruction_row(model)) if at_end else -1
            size = bench.study.probes.batch_size
            bench.statement_reads[label] = collect(model, rows, names, (position,), size)
    return bench.statement_reads[label]


def project_all(
    bench: Workbench, label: ModelLabel, activations: Activations, direction: Direction
) -> list[Projection]:
    """Statements and test requests along a trait direction."""
    from lpa_interp.chat import chat_rows
    from probes import class_midpoint, collect, project, statement_labels

    name, position = direction.hook_name, direction.position
    labels, _ = statement_labels(bench.trait_statements)
    read = activations.at(name, position)
    midpoint = class_midpoint(read[labels], read[~labels])
    groups = [f"{statement.side}_trait" for statement in bench.trait_statements]
    ids = [statement.id for statement in bench.trait_statements]
    rows = project(read, direction, midpoint, groups=groups, text_ids=ids)
    requests = bench.requests("test", bench.study.probes.ablation_prompts)
    sides: tuple[PromptSide, ...] = ("harmful", "harmless")
    with bench.model(label) as model:
        for side in sides:
            tokens = chat_rows(model, [prompt.text for prompt in requests[side]])
            seen = collect(model, tokens, [name], positions=(position,))
            ids = [prompt.id for prompt in requests[side]]
            rows += project(
                seen.at(name, position), direction, midpoint, groups=[side] * len(ids), text_ids=ids
            )
    return rows
