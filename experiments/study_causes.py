"""How much of the refusal that training gained is carried by the trait directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.reads import SIDES, measured_activations, request_rows, statement_activations
from experiments.study_refusal import RefusalRows, chosen_layer, refusal_ids
from experiments.workbench import Workbench
from lpa_interp.records import Direction, DoseEffect, MediatedShare, ModelLabel, PatchEffect
from lpa_interp.runs import write_rows

if TYPE_CHECKING:
    from lpa_interp.chat import Row
    from lpa_interp.records import PromptSide
    from probes.controls import NamedSubspace

Rows = Mapping["PromptSide", Sequence["Row"]]


def explain_causes(
    bench: Workbench, traits: Sequence[Direction], parts: Mapping[ModelLabel, RefusalRows]
) -> None:
    """Writes the causal shares, the dose response in the base model and the patches."""
    with bench.model("base") as model:
        rows = request_rows(bench, model, "test", bench.study.probes.ablation_prompts)
    layer = chosen_layer(bench, "lpa")
    folder = bench.run / "probes"
    write_rows(folder / "mediated_shares.jsonl", shares_of(bench, rows, layer, parts["lpa"]))
    write_rows(folder / "doses.jsonl", doses_of(bench, rows, layer, traits, parts["lpa"]))
    write_rows(folder / "patches.jsonl", patches_of(bench, rows))


def shares_of(bench: Workbench, rows: Rows, layer: int, part: RefusalRows) -> list[MediatedShare]:
    """The trait subspaces and the refusal direction of the trained model, with controls."""
    from probes import mediated_shares, refusal_scores

    hook = f"blocks.{layer}.hook_resid_pre"
    subspaces = subspaces_of(bench, hook, part)
    bench.tell.say(f"  causal share: {len(subspaces)} subspaces on {len(rows['harmful'])} prompts")
    ids = refusal_ids(bench)
    with bench.model("base") as model:
        before = refusal_scores(model, rows, subspaces, hook_name=hook, token_ids=ids)
    with bench.model("lpa") as model:
        after = refusal_scores(model, rows, subspaces, hook_name=hook, token_ids=ids)
    return mediated_shares(before, after, seed=bench.study.seed)


def subspaces_of(bench: Workbench, hook: str, part: RefusalRows) -> list[NamedSubspace]:
    """What is cut out: trait subspaces of growing size and the refusal direction."""
    from probes import named_subspace, statement_labels, top_k_subspace, with_controls

    config, read = bench.study.probes, statement_activations(bench, "lpa")
    labels, groups = statement_labels(bench.trait_statements)
    values = read.at(hook, read.positions[0])
    basis = top_k_subspace(values, labels, groups, max(config.subspace_sizes)).basis
    found = [named_subspace("trait", basis[:k]) for k in config.subspace_sizes]
    if part.direction is not None:
        found.append(named_subspace("refusal", part.direction.vector))
    seen = measured_activations(bench, "lpa")
    residuals = np.concatenate([seen[side].at(hook) for side in SIDES])
    return with_controls(found, residuals, config.n_random_directions, bench.study.seed)


def doses_of(
    bench: Workbench,
    rows: Rows,
    layer: int,
    traits: Sequence[Direction],
    part: RefusalRows,
) -> list[DoseEffect]:
    """The trained model's directions added to the base model, and cut out of it in part."""
    from probes import dose_effects

    config = bench.study.probes
    chosen = [d for d in traits if (d.model, d.layer, d.name) == ("lpa", layer, "trait")]
    chosen += [part.direction] if part.direction is not None else []
    found = []
    with bench.model("base") as model:
        for direction in chosen:
            bench.tell.say(f"  dose response of the {direction.name} direction")
            found += dose_effects(
                model,
                rows,
                direction,
                label="base",
                doses=config.doses,
                fractions=(0.5, 1.0),
                n_random=config.n_random_directions,
                token_ids=refusal_ids(bench),
                seed=bench.study.seed,
            )
    return found


def patches_of(bench: Workbench, rows: Rows) -> list[PatchEffect]:
    """The trained model's residual stream put into the base model, and the other way round."""
    from probes import patch_activations, patch_effects, patch_scores

    read, scores = {}, {}
    labels: tuple[ModelLabel, ...] = ("base", "lpa")
    for label in labels:
        with bench.model(label) as model:
            read[label] = patch_activations(model, rows)
    for label, other in zip(labels, labels[::-1], strict=True):
        bench.tell.say(f"  patching {other} into {label}, layer by layer")
        with bench.model(label) as model:
            layers = np.arange(0, model.cfg.n_layers, bench.study.probes.patch_every).tolist()
            scores[label] = patch_scores(
                model,
                rows,
                token_ids=refusal_ids(bench),
                own=read[label],
                donor=read[other],
                layers=layers,
                seed=bench.study.seed,
            )
    return patch_effects(scores["base"], scores["lpa"], seed=bench.study.seed)
