"""The numbered stages of a study. Each reads the workbench and writes its part of the run."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from experiments.workbench import Workbench
from lpa_interp.records import Direction, ModelLabel, Projection, PromptSide
from lpa_interp.runs import write_rows

if TYPE_CHECKING:
    from lpa_interp.evaluation import Evaluation
    from probes.activations import Activations

STATEMENT_HOOKS = ("blocks.*.hook_resid_pre",)
"""Trait directions are read where refusal directions are: at the input of each block."""


def stage_1_organism(bench: Workbench) -> bool:
    """Makes or finds the base model. True where it came from the cache."""
    _ = bench.base
    return bench.organism_reused


def stage_2_train(bench: Workbench) -> bool:
    """Trains the adapter and saves it in PEFT's layout."""
    from experiments.checkpoints import train_with_checkpoints
    from lpa_interp.export import save_adapter

    adapter = train_with_checkpoints(bench)
    save_adapter(bench.base, adapter, bench.run / "adapter")
    bench.use_adapter(adapter)
    return False


def stage_3_evaluate(bench: Workbench) -> bool:
    """Completions, verdicts and scores of each model, and the paired contrasts."""
    from lpa_interp.evaluation import contrasts, evaluate

    config, seed, folder = bench.study.evaluate, bench.study.seed, bench.run / "behaviour"
    for name, reason in bench.skipped:
        bench.tell.say(f"  skipped {name}: {reason}")
    made: dict[ModelLabel, Evaluation] = {}
    for label in bench.labels:
        with bench.model(label) as model:
            bench.tell.say(f"  {label}: {sum(map(len, bench.benchmarks.values()))} prompts")
            made[label] = evaluate(model, label, bench.benchmarks, config, seed, bench.tell)
    for name in ("completions", "verdicts", "scores"):
        rows = [row for evaluation in made.values() for row in getattr(evaluation, name)]
        write_rows(folder / f"{name}.jsonl", rows)
    in_order = list(made.values())
    pairs = itertools.pairwise(in_order)
    rows = [row for before, after in pairs for row in contrasts(before, after, seed)]
    write_rows(folder / "contrasts.jsonl", rows)
    return False


def stage_4_probe(bench: Workbench) -> bool:
    """Trait probes by layer, trait directions, projections of statements and requests."""
    from probes import best_layer, probe_sweep, save_directions, statement_labels, trait_directions

    config, seed = bench.study.probes, bench.study.seed
    labels, groups = statement_labels(bench.trait_statements)
    scores, directions, projections = [], [], []
    for label in ("base", "lpa"):
        activations = statement_activations(bench, label)
        bench.tell.say(f"  {label}: probing {len(activations.hook_names)} layers")
        sweep = probe_sweep(
            activations,
            labels,
            groups,
            model=label,
            methods=config.methods,
            n_folds=config.n_folds,
            seed=seed,
        )
        position = activations.positions[0]
        found = trait_directions(activations, labels, model=label, position=position)
        chosen = next(d for d in found if d.layer == best_layer(sweep))
        projections += project_all(bench, label, activations, chosen)
        scores += sweep
        directions += found
    write_rows(bench.run / "probes" / "scores.jsonl", scores)
    write_rows(bench.run / "probes" / "projections.jsonl", projections)
    save_directions(bench.run / "probes" / "trait_directions.safetensors", directions)
    return False


def stage_5_refusal(bench: Workbench) -> bool:
    """Refusal direction of each model, its angle to the trait direction, and ablations."""
    from experiments.study_refusal import explain_refusal
    from probes import load_directions, save_directions

    folder = bench.run / "probes"
    traits = load_directions(folder / "trait_directions.safetensors")
    parts = [explain_refusal(bench, label, traits) for label in ("base", "lpa")]
    for name in ("candidates", "angles", "ablations"):
        file = "refusal_candidates" if name == "candidates" else name
        write_rows(folder / f"{file}.jsonl", [row for part in parts for row in getattr(part, name)])
    found = [part.direction for part in parts if part.direction is not None]
    save_directions(folder / "directions.safetensors", traits + found)
    return False


def stage_6_features(bench: Workbench) -> bool:
    """A sparse autoencoder, its quality on both models, and the features that differ."""
    from experiments.study_features import explain_features

    return explain_features(bench)


def stage_7_report(bench: Workbench) -> bool:
    """Figures, report and model card from what the run holds."""
    from experiments.provenance import write_provenance
    from figures import draw_all, write_report

    write_provenance(bench)
    draw_all(bench.run.path)
    write_report(bench.run.path)
    return False


def statement_activations(bench: Workbench, label: ModelLabel) -> Activations:
    """Activations of every statement at the input of each block, at the study's position."""
    from lpa_interp.chat import post_instruction_row
    from lpa_interp.hooks import resolve_hooks
    from probes import collect, statement_rows

    with bench.model(label) as model:
        rows = statement_rows(model, bench.trait_statements, bench.study.traits.system_prompt)
        # Block 0's input at a template token is the same for every prompt.
        names = resolve_hooks(model, STATEMENT_HOOKS)[1:]
        at_end = bench.study.probes.statement_position == "instruction_end"
        position = -len(post_instruction_row(model)) if at_end else -1
        size = bench.study.probes.batch_size
        return collect(model, rows, names, positions=(position,), batch_size=size)


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
