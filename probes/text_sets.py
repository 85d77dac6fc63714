"""Labelled texts as one kind of value, and where each kind is read.

Making text sets needs no torch; reading them does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool

from lpa_interp.errors import InputError
from lpa_interp.records import TraitStatement

if TYPE_CHECKING:
    from lpa_interp.chat import Row
    from lpa_interp.model import HookedTransformer
    from probes.activations import Activations


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSet:
    """n labelled texts, and where they are to be read.

    ``labels`` [n] are True for the side that ``positive`` names. ``groups`` keep together on
    one side of a split. ``splits`` name the part of its source that a text is from (``all``
    where there are none). ``reading`` is ``statement_end`` (the template's first token after
    the prompt) or ``completion_mean`` (the mean over a completion's tokens); ``completions`` is
    None until there are some.
    """

    name: str
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    systems: tuple[str | None, ...]
    completions: tuple[str, ...] | None
    labels: np.ndarray
    groups: tuple[str, ...]
    splits: tuple[str, ...]
    reading: Literal["statement_end", "completion_mean"]
    positive: str
    negative: str

    @property
    def n(self) -> int:
        """Number of texts."""
        return len(self.ids)

    @property
    def direction(self) -> str:
        """Name of the direction from the negative to the positive side: where it points.

        Such as ``persona:low narcissism`` or ``persona_vectors:not evil``; a set that is no
        single trait gives its own name.
        """
        source, _, trait = self.name.partition(":")
        return f"{source}:{self.positive}" if trait else self.name

    def select(self, indices: Sequence[int] | np.ndarray) -> TextSet:
        """Some of the texts, in the order of ``indices``."""
        chosen = [int(index) for index in indices]
        completions = self.completions
        return replace(
            self,
            ids=tuple(self.ids[index] for index in chosen),
            prompts=tuple(self.prompts[index] for index in chosen),
            systems=tuple(self.systems[index] for index in chosen),
            completions=completions and tuple(completions[index] for index in chosen),
            labels=self.labels[chosen],
            groups=tuple(self.groups[index] for index in chosen),
            splits=tuple(self.splits[index] for index in chosen),
        )

    def with_completions(self, completions: Sequence[str]) -> TextSet:
        """The set with the completions that a model gave to its prompts.

        Raises:
            InputError: Not one per prompt, or one is empty: it has no mean; leave such texts
                out with `select` before.
        """
        if len(completions) != self.n:
            mistake = f"{len(completions)} completions for {self.n} prompts"
            raise InputError(f"text set {self.name}", mistake)
        for id, completion in zip(self.ids, completions, strict=True):
            if not completion.strip():
                raise InputError(f"text {id}", "its completion is empty", "leave the text out")
        return replace(self, completions=tuple(completions))


def statement_labels(
    statements: Sequence[TraitStatement],
) -> tuple[Bool[np.ndarray, " n"], list[str]]:
    """Labels (True for positive traits) and groups (facets within their factor).

    A facet whose source already names the factor is taken as it is: statements that such a
    source repeats under two factors share their facet, and stay on one side of a split.
    """
    labels = np.array([statement.side == "positive" for statement in statements], dtype=bool)
    return labels, [
        statement.facet if "/" in statement.facet else f"{statement.factor}/{statement.facet}"
        for statement in statements
    ]


def read_text_set(
    model: HookedTransformer,
    texts: TextSet,
    hook_names: Sequence[str],
    batch_size: int = 16,
    system: str | None = None,
) -> Activations:
    """Activations of a text set, where the set says it is to be read.

    Args:
        model: Any HookedTransformer.
        texts: The set; one that is read at completions needs them.
        hook_names: As in `probes.activations.collect`.
        batch_size: Texts per forward pass.
        system: A system prompt for texts that have none of their own.

    Raises:
        InputError: Completions are missing, or as `collect` and `collect_completions`.
    """
    from lpa_interp.chat import completion_row, post_instruction_row
    from probes.activations import collect, collect_completions

    rows = prompt_rows(model, texts, system)
    if texts.reading == "statement_end":
        position = -len(post_instruction_row(model))
        return collect(model, rows, hook_names, (position,), batch_size)
    if texts.completions is None:
        allowed = "generate them and add them with with_completions"
        raise InputError(f"text set {texts.name}", "has no completions", allowed)
    answers = [completion_row(model, text, end=False) for text in texts.completions]
    return collect_completions(model, rows, answers, hook_names, batch_size)


def prompt_rows(model: HookedTransformer, texts: TextSet, system: str | None = None) -> list[Row]:
    """Token rows of the prompts, up to where the answer begins, each under its system prompt."""
    from lpa_interp.chat import chat_rows

    pairs = zip(texts.prompts, texts.systems, strict=True)
    return [chat_rows(model, [text], own or system)[0] for text, own in pairs]
