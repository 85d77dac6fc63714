"""Directions of other traits than the study trains on: factors, dark traits, personas.

They come from public texts, so that each is there only where its texts are on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from experiments.reads import RESIDUALS, read_once
from experiments.workbench import Workbench
from lpa_interp.errors import InputError
from lpa_interp.records import Direction, DirectionStability, ModelLabel

if TYPE_CHECKING:
    import numpy as np

    from lpa_interp.chat import Row
    from probes.activations import Activations
    from probes.families import DirectionFamily
    from probes.text_sets import TextSet

BIG_FIVE = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
DARK_TRAITS = ("machiavellianism", "narcissism", "psychopathy")
STATEMENT_SETS = (
    *(f"ipip:{factor}" for factor in BIG_FIVE),
    *(f"persona:{trait}" for trait in DARK_TRAITS),
)
TEXTS_PER_SIDE = 24
"""Of a statement set that the study does not name among its transfer sets."""


@dataclass(frozen=True, slots=True)
class TraitReading:
    """A set of labelled texts as a model reads it; ``name`` says where its direction points."""

    name: str
    activations: Activations
    labels: np.ndarray
    groups: tuple[str, ...]

    @property
    def position(self) -> int:
        """Where the set is read."""
        return self.activations.positions[0]

    def family(self) -> DirectionFamily:
        """Its directions at every layer, with the texts behind them."""
        from probes import labelled_family

        return labelled_family(self.name, self.activations, self.labels, self.groups, self.position)


def other_traits(bench: Workbench, label: ModelLabel, tell: bool = True) -> list[TraitReading]:
    """Every other trait whose texts are on this machine, read at every layer.

    What is left out is told of the base model, with the reason.
    """
    personas = (f"persona_vectors:{trait}" for trait in bench.study.probes.persona_traits)
    found = []
    for name in (*STATEMENT_SETS, *personas):
        try:
            texts, rows = set_rows(bench, label, name)
        except InputError as error:
            if tell and label == "base":
                bench.tell.say(f"  skipped {name}: {error}")
            continue
        found.append(read_set(bench, label, texts, rows))
    return found


def set_rows(bench: Workbench, label: ModelLabel, name: str) -> tuple[TextSet, list[Row]]:
    """A text set as the study samples it, and its token rows.

    Raises:
        InputError: The set is not on this machine, or this model cannot take its prompts.
    """
    from probes import prompt_rows, trait_set
    from probes.personas import persona_rows, persona_texts

    config, seed = bench.study.probes, bench.study.seed
    source, _, trait = name.partition(":")
    with bench.model(label) as model:
        if source == "persona_vectors":
            texts = persona_texts(trait, config.persona_questions, seed)
            return texts, persona_rows(model, texts)
        named = name in config.transfer_sets
        texts = trait_set(name, config.transfer_limit if named else TEXTS_PER_SIDE, seed)
        return texts, prompt_rows(model, texts)


def read_set(
    bench: Workbench, label: ModelLabel, texts: TextSet, rows: Sequence[Row]
) -> TraitReading:
    """A set read at every layer: at the end of its prompts, or over the model's completions."""
    from lpa_interp.hooks import resolve_hooks
    from probes import read_text_set
    from probes.personas import COMPLETION_TOKENS, read_persona

    size = bench.study.probes.batch_size
    with bench.model(label) as model:
        # Block 0's input at a template token is the same for every prompt.
        names = resolve_hooks(model, RESIDUALS)[1:]
        make = partial(read_text_set, model, texts, names, size)
        what: list[object] = [texts.reading, *names, size]
        if texts.reading == "completion_mean":
            bench.tell.say(f"  {label}: {texts.name} over the completions to {texts.n} prompts")
            make = partial(read_persona, model, rows, names, COMPLETION_TOKENS, size)
            what.append(COMPLETION_TOKENS)
        read = read_once(bench, label, model, rows, what, make)
    return TraitReading(texts.direction, read, texts.labels, texts.groups)


def directions_of(reading: TraitReading, label: ModelLabel) -> list[Direction]:
    """The mean difference of a set at every layer."""
    from probes import trait_directions

    return trait_directions(
        reading.activations,
        reading.labels,
        model=label,
        position=reading.position,
        name=reading.name,
    )


def stability_of(
    bench: Workbench, reading: TraitReading, label: ModelLabel
) -> list[DirectionStability]:
    """Cosine of the directions fitted to two halves of a set's groups, against its null."""
    from probes import stability_rows

    return stability_rows(
        reading.activations,
        reading.labels,
        reading.groups,
        model=label,
        target=reading.name,
        seed=bench.study.seed,
    )
