"""The numbered stages of a study. Each reads the workbench and writes its part of the run."""

from __future__ import annotations

from experiments.workbench import Workbench
from lpa_interp.records import ModelLabel
from lpa_interp.runs import write_rows


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
    from experiments.study_behaviour import measure_behaviour

    measure_behaviour(bench)
    return False


def stage_4_probe(bench: Workbench) -> bool:
    """Trait probes by layer, trait directions, projections, transfer between trait sets."""
    from experiments.study_probes import explain_traits

    explain_traits(bench)
    return False


def stage_5_refusal(bench: Workbench) -> bool:
    """Refusal direction of each model, ablations, geometry, and the causal share."""
    from experiments.reads import forget_reads
    from experiments.study_causes import explain_causes
    from experiments.study_geometry import explain_geometry
    from experiments.study_refusal import explain_refusal
    from probes import load_directions, save_directions

    folder = bench.run / "probes"
    traits = load_directions(folder / "trait_directions.safetensors")
    labels: tuple[ModelLabel, ...] = ("base", "lpa")
    parts = {label: explain_refusal(bench, label, traits) for label in labels}
    for name in ("candidates", "ablations"):
        file = "refusal_candidates" if name == "candidates" else name
        rows = [row for part in parts.values() for row in getattr(part, name)]
        write_rows(folder / f"{file}.jsonl", rows)
    found = explain_geometry(bench, traits, parts)
    explain_causes(bench, traits, parts)
    chosen = [part.direction for part in parts.values() if part.direction is not None]
    save_directions(folder / "directions.safetensors", [*traits, *chosen, *found])
    forget_reads(bench)
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
