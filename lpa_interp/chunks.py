"""Work in chunks that are kept as soon as they are done, so that none is done twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lpa_interp.records import Completion, ModelLabel, Prompt, Verdict
from lpa_interp.runs import content_hash


@dataclass(frozen=True, slots=True)
class Rows:
    """What measuring one chunk gave; ``seconds`` is what its attack took before the answers."""

    completions: tuple[Completion, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    seconds: float = 0.0


@runtime_checkable
class Keeper(Protocol):
    """Keeps the rows of chunks. `experiments` keeps them in the run directory."""

    def get(self, key: str) -> Rows | None:
        """The rows that were kept under a key; None where there are none."""

    def put(self, key: str, rows: Rows) -> None:
        """Keeps the rows of a chunk, whole or not at all."""


class Forgetful:
    """Keeps nothing: every chunk is new."""

    def get(self, key: str) -> Rows | None:
        """Nothing."""
        return None

    def put(self, key: str, rows: Rows) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """The model, benchmark and attack that rows belong to."""

    model: ModelLabel
    benchmark: str
    attack: str

    def verdict(self, prompt: Prompt, judge: str, measure: str, value: float | None) -> Verdict:
        """What a judge says of a prompt measured here."""
        return Verdict(
            model=self.model,
            benchmark=self.benchmark,
            attack=self.attack,
            prompt_id=prompt.id,
            harmful=prompt.harmful,
            judge=judge,
            measure=measure,
            value=value,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompts of one place that are measured together."""

    place: Place
    prompts: tuple[Prompt, ...]
    attack: str = ""
    """What the attack is and may spend, in words."""
    targets: bool = False
    """Whether every prompt of the set has an affirmative target of its own."""

    @property
    def key(self) -> str:
        """Hash of all that tells this chunk's rows from another's, the model's weights aside."""
        place = self.place
        texts = [(prompt.id, prompt.harmful, prompt.text) for prompt in self.prompts]
        return content_hash([place.model, place.benchmark, place.attack, self.attack, texts])


def in_chunks(
    place: Place,
    prompts: Sequence[Prompt],
    size: int,
    attack: str = "",
    targets: bool = False,
) -> list[Chunk]:
    """Chunks of prompts of similar length.

    They do not depend on what is done already: numbers can follow rounding in a batch, so a
    call that goes on measures in the same batches as one that was never stopped.
    """
    order = sorted(prompts, key=lambda prompt: len(prompt.text))
    starts = range(0, len(order), size)
    return [Chunk(place, tuple(order[at : at + size]), attack, targets) for at in starts]


def in_order(rows: Sequence[Rows], prompts: Sequence[Prompt]) -> Rows:
    """Rows of several chunks in the order of the prompts."""
    places = {(prompt.id, prompt.harmful): index for index, prompt in enumerate(prompts)}

    def place(row: Completion | Verdict) -> int:
        return places[row.prompt_id, row.harmful]

    completions = sorted((row for part in rows for row in part.completions), key=place)
    verdicts = [row for part in rows for row in part.verdicts]
    judges = list(dict.fromkeys(row.judge for row in verdicts))
    verdicts.sort(key=lambda row: (judges.index(row.judge), place(row)))
    return Rows(tuple(completions), tuple(verdicts), sum(part.seconds for part in rows))
