"""The refusal direction of a run's models, its angle to the trait direction, and ablations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from experiments.reads import SIDES, measured_activations, request_rows
from experiments.study_probes import layer_of_best
from experiments.workbench import Workbench
from lpa_interp.records import (
    AblationEffect,
    Direction,
    ModelLabel,
    ProbeScore,
    RefusalCandidate,
)
from lpa_interp.runs import read_rows

if TYPE_CHECKING:
    from probes.refusal import RefusalSearch


@dataclass(frozen=True, slots=True)
class RefusalRows:
    """What the refusal stage writes of one model."""

    candidates: list[RefusalCandidate]
    ablations: list[AblationEffect]
    direction: Direction | None
    by_layer: list[Direction]
    """The mean difference of each layer, whether it could be chosen or not."""


def explain_refusal(
    bench: Workbench, label: ModelLabel, traits: Sequence[Direction]
) -> RefusalRows:
    """Searches the refusal direction, ablates it and the trait direction.

    Directions come from the ``organism`` requests, the choice among them from the
    ``validation`` requests and the ablations are measured on the ``test`` requests.
    """
    search = search_refusal(bench, label)
    if search.direction is None:
        bench.tell.say(f"  {label}: no refusal direction passed the filters: {search.reason}")
    layer = chosen_layer(bench, label)
    trait = next(d for d in traits if (d.model, d.layer, d.name) == (label, layer, "trait"))
    vectors = {"trait": trait.vector}
    if search.direction is not None:
        vectors["refusal"] = search.direction.vector
    return RefusalRows(
        list(search.candidates),
        ablate_directions(bench, label, vectors, trait.hook_name),
        search.direction,
        layer_directions(bench, label, search),
    )


def layer_directions(bench: Workbench, label: ModelLabel, search: RefusalSearch) -> list[Direction]:
    """The refusal difference of every layer as a direction, at the chosen position."""
    position = search.direction.position if search.direction else -1
    return [
        Direction(
            name="refusal",
            model=label,
            hook_name=f"blocks.{layer}.hook_resid_pre",
            layer=layer,
            position=position,
            method="mean_difference",
            raw_norm=float(np.linalg.norm(vector)),
            n=2 * bench.study.probes.refusal_train,
            split="organism",
            vector=(vector / np.linalg.norm(vector)).astype(np.float32),
        )
        for layer, vector in search.by_layer().items()
    ]


def refusal_ids(bench: Workbench) -> list[int]:
    """First tokens of the base model's own refusals, for both models alike.

    They come from the validation requests and are written to ``probes/refusal_tokens.json``.
    """
    from lpa_interp.chat import tokenizer_of
    from lpa_interp.runs import write_json
    from probes import own_refusal_tokens

    if bench.refusal_ids is None:
        with bench.model("base") as model:
            rows = request_rows(bench, model, "validation", None)
            found = own_refusal_tokens(model, rows["harmful"], rows["harmless"])
            words = [tokenizer_of(model).decode([token]) for token in found.token_ids]
        told = (
            f"the model's own: {', '.join(map(repr, words))}" if not found.reason else found.reason
        )
        bench.tell.say(f"  refusal tokens: {told}")
        counts = {"n_refusals": found.n_refusals, "n_answers": found.n_answers}
        row = {"token_ids": list(found.token_ids), "tokens": words, "reason": found.reason}
        write_json(bench.run / "probes" / "refusal_tokens.json", row | counts)
        bench.refusal_ids = list(found.token_ids)
    return bench.refusal_ids


def search_refusal(bench: Workbench, label: ModelLabel) -> RefusalSearch:
    """The search of Arditi et al. on the shipped requests."""
    from probes import find_refusal_direction

    config, ids = bench.study.probes, refusal_ids(bench)
    with bench.model(label) as model:
        bench.tell.say(f"  {label}: searching the refusal direction")
        train = request_rows(bench, model, "organism", config.refusal_train)
        validation = request_rows(bench, model, "validation", config.refusal_validation)
        return find_refusal_direction(
            model,
            *(train[side] for side in SIDES),
            *(validation[side] for side in SIDES),
            config,
            label,
            stop_early=config.stop_early,
            token_ids=ids,
        )


def ablate_directions(
    bench: Workbench, label: ModelLabel, vectors: dict[str, np.ndarray], hook_name: str
) -> list[AblationEffect]:
    """Refusal on test requests with each direction cut out, and with random ones."""
    from probes import ablation_effects

    config, ids = bench.study.probes, refusal_ids(bench)
    read = measured_activations(bench, label)
    residuals = np.concatenate([read[side].at(hook_name) for side in SIDES])
    with bench.model(label) as model:
        bench.tell.say(f"  {label}: ablating {', '.join(vectors)} and random directions")
        rows = request_rows(bench, model, "test", config.ablation_prompts)
        return ablation_effects(
            model,
            rows,
            vectors,
            label=label,
            residuals=residuals,
            n_random=config.n_random_directions,
            token_ids=ids,
            seed=bench.study.seed,
        )


def chosen_layer(bench: Workbench, label: ModelLabel) -> int:
    """The layer whose mean-difference probe does best on held-out facets."""
    scores = read_rows(bench.run / "probes" / "scores.jsonl", ProbeScore)
    return layer_of_best([row for row in scores if row.model == label])
