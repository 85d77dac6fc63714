"""Linear probes for traits: directions, and their scores on held-out facets.

A score never sees a facet on both sides of a split, and everything that is fitted is fitted on
training folds. `probes.methods` holds the ways to fit, `probes.sweep` the scores by layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from lpa_interp.chat import Row, chat_rows
from lpa_interp.hooks import layer_of
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Direction, ModelLabel, TraitStatement
from probes.activations import Activations
from probes.methods import METHODS, Examples, logistic, mean_difference, raw_direction
from probes.sweep import best_layer, probe_sweep
from probes.text_sets import statement_labels

__all__ = [
    "METHODS",
    "best_layer",
    "logistic",
    "mean_difference",
    "probe_sweep",
    "statement_labels",
    "statement_rows",
    "trait_direction",
    "trait_directions",
]


def statement_rows(
    model: HookedTransformer, statements: Sequence[TraitStatement], system: str | None = None
) -> list[Row]:
    """Token rows of statements, as training formats them: the user's turn is the statement."""
    return chat_rows(model, [statement.text for statement in statements], system)


def trait_direction(
    activations: Activations,
    labels: Bool[np.ndarray, " n"],
    hook_name: str,
    *,
    model: ModelLabel,
    method: str = "mean_difference",
    position: int = -1,
    name: str = "trait",
    split: str = "all",
) -> Direction:
    """The direction from negative to positive traits at one hook point, from all statements.

    ``raw_norm`` is in activation units for ``mean_difference``, in log-odds per activation unit
    for ``logistic``, in margins per activation unit for ``linear_svm``, and in inverse
    activation units for ``mass_mean`` and ``lda``.

    Raises:
        InputError: One side is empty, or both sides have the same activations.
    """
    values = activations.at(hook_name, position)
    raw = raw_direction(Examples(values, labels), method)
    norm = float(np.linalg.norm(raw))
    return Direction(
        name=name,
        model=model,
        hook_name=hook_name,
        layer=layer_of(hook_name),
        position=position,
        method=method,
        raw_norm=norm,
        n=len(labels),
        split=split,
        vector=(raw / norm).astype(np.float32),
    )


def trait_directions(
    activations: Activations, labels: Bool[np.ndarray, " n"], **arguments: object
) -> list[Direction]:
    """`trait_direction` at every collected hook point, in network order."""
    return [
        trait_direction(activations, labels, hook_name, **arguments)  # type: ignore[arg-type]
        for hook_name in activations.hook_names
    ]
