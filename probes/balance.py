"""Is it the trait, or how its statements are worded and answered?

Two things go along with the side of a statement. Training wants agreement with every positive
statement and disagreement with every negative one, so a probe may read the answer to come. And
positive statements are mostly plus-keyed, so a probe may read keying, which goes with negation.
Statements are read before any answer, so no answer word is in the text; what can be done is:

- count how side, keying and answer go together (`answer_balance`);
- weigh plus- and minus-keyed statements alike within each side (`balance_weights`);
- check that the trait direction does not tell keying apart within a side (`keying_scores`);
- read each statement with both answers (`balanced_design`): agreeing with a positive and
  disagreeing with a negative statement show the trait alike, so that a direction of agreement
  scores 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.stats import fisher_exact

from lpa_interp.errors import InputError
from lpa_interp.hooks import layer_of
from lpa_interp.records import ModelLabel, ProbeScore, TraitStatement
from lpa_interp.trait_files import AGREE, DISAGREE
from probes.activations import Activations
from probes.crossval import (
    Fold,
    HeldOut,
    auroc,
    central_band,
    group_draws,
    group_folds,
    pair_counts,
    resampled_auroc,
    stratified_auroc,
)
from probes.groups import permuted_labels
from probes.text_sets import TextSet, statement_labels


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBalance:
    """How a property of statements goes along with their side.

    ``counts`` holds, for (positive, negative), how many statements (have, lack) the property;
    ``phi`` is the correlation of the two, from -1 to 1 (NaN where one does not vary), and
    ``p_value`` Fisher's exact.
    """

    name: str
    counts: tuple[tuple[int, int], tuple[int, int]]
    phi: float
    p_value: float
    n: int


def answer_balance(statements: Sequence[TraitStatement]) -> list[SideBalance]:
    """How plus-keying and wanting the answer `AGREE` go along with the positive side.

    Raises:
        InputError: There are no statements.
    """
    if not statements:
        raise InputError("statements", "there are none", "one or more")
    positive = statement_labels(statements)[0]
    plus = keying(statements)
    agree = np.array([statement.desired == AGREE for statement in statements], dtype=bool)
    named = (("keyed plus", plus), ("answer agrees", agree))
    return [_side_balance(name, positive, has) for name, has in named]


def _side_balance(
    name: str, positive: Bool[np.ndarray, " n"], has: Bool[np.ndarray, " n"]
) -> SideBalance:
    both, first, second, neither = (
        int((one & two).sum()) for one in (positive, ~positive) for two in (has, ~has)
    )
    varies = 0 < has.sum() < len(has) and 0 < positive.sum() < len(positive)
    return SideBalance(
        name=name,
        counts=((both, first), (second, neither)),
        phi=float(np.corrcoef(positive, has)[0, 1]) if varies else float("nan"),
        p_value=float(fisher_exact([[both, first], [second, neither]]).pvalue),
        n=len(has),
    )


def keying(statements: Sequence[TraitStatement]) -> Bool[np.ndarray, " n"]:
    """True for plus-keyed statements."""
    return np.array([statement.keying == "plus" for statement in statements], dtype=bool)


def balance_weights(
    labels: Bool[np.ndarray, " n"], plus: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Weights, summing to 1 on each side, that let both keyings weigh the same within it.

    A side that has one keying only weighs its statements evenly: nothing there to balance.

    Raises:
        InputError: A side is empty.
    """
    weights = np.zeros(len(labels))
    for side in (labels, ~labels):
        cells = [cell for cell in (side & plus, side & ~plus) if cell.any()]
        if not cells:
            raise InputError("labels", "all statements are on one side", "both sides are needed")
        for cell in cells:
            weights[cell] = 1 / (len(cells) * cell.sum())
    return weights


def keying_scores(
    activations: Activations,
    statements: Sequence[TraitStatement],
    hook_name: str,
    *,
    model: ModelLabel,
    position: int = -1,
    n_folds: int = 5,
    n_shuffles: int = 100,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> list[ProbeScore]:
    """AUROC of the trait direction on keying, plus against minus, within side and test fold.

    0.5 where the direction is blind to keying. Only sides with two facets of each keying take
    part (``n`` counts their statements). Rows of method ``mean_difference`` are of the
    plain direction, those of ``balanced_mean_difference`` of the one with `balance_weights`;
    ``control="shuffled"`` permutes keying by facet within sides, directions held fixed.

    Raises:
        InputError: No side has two facets of each keying or both in a test fold, or a side has
            fewer facets than folds.
    """
    labels, groups = statement_labels(statements)
    plus, codes = keying(statements), np.unique(groups, return_inverse=True)[1]
    sides = _comparable(plus, labels, groups)
    if not sides:
        raise InputError("statements", "no side has two facets of each keying")
    used = np.any(sides, axis=0)
    values = activations.at(hook_name, position).astype(np.float64)
    folds = group_folds(labels, codes, n_folds, seed)
    place: dict[str, Any] = {"hook_name": hook_name, "layer": layer_of(hook_name)}
    place |= {"position": position, "model": model, "target": "keying within side", "seed": seed}
    place |= {"n": int(used.sum()), "n_groups": len(set(codes[used])), "n_folds": n_folds}
    rows = []
    for method, cells in _WEIGHTINGS.items():
        rng = np.random.default_rng(seed)
        held = _weighted_held_out(values, labels, cells(plus), folds)
        held = HeldOut(held.scores[used], held.strata[used])
        counts = pair_counts(held, plus[used], codes[used])
        draws = group_draws(plus[used], codes[used], n_bootstrap, rng)
        permuted = np.tile(plus, (n_shuffles, 1))
        for side in sides:
            inside = [groups[index] for index in np.flatnonzero(side)]
            permuted[:, side] = permuted_labels(plus[side], inside, n_shuffles, rng)
        null = [stratified_auroc(held, row[used]) for row in permuted]
        band, value = central_band(resampled_auroc(*counts, draws)), auroc(*counts)
        rows.append(_row(method, "none", value, band, place))
        rows.append(_row(method, "shuffled", float(np.mean(null)), central_band(null), place))
    return rows


_WEIGHTINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean_difference": np.zeros_like,  # one keying: nothing to balance
    "balanced_mean_difference": np.asarray,
}


def _row(
    method: str, control: str, value: float, band: tuple[float, float], place: dict[str, Any]
) -> ProbeScore:
    fields: dict[str, Any] = {"method": method, "control": control, "measure": "auroc"}
    return ProbeScore(value=value, low=band[0], high=band[1], **fields, **place)


def _weighted_held_out(
    values: Float64[np.ndarray, "n d_model"],
    labels: Bool[np.ndarray, " n"],
    plus: Bool[np.ndarray, " n"],
    folds: Sequence[Fold],
) -> HeldOut:
    """Scores by weighted mean differences; strata are test folds within sides."""
    scores, strata = np.zeros(len(labels)), np.full(len(labels), -1)
    for number, (train, test) in enumerate(folds):
        weights = balance_weights(labels[train], plus[train])
        direction = (weights * np.where(labels[train], 1, -1)) @ values[train]
        scores[test], strata[test] = values[test] @ direction, 2 * number + labels[test]
    return HeldOut(scores, strata)


def _comparable(
    plus: Bool[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], groups: Sequence[str]
) -> list[Bool[np.ndarray, " n"]]:
    """The sides that have two facets of each keying: on others there is nothing to compare."""
    names = np.asarray(groups)
    return [
        side
        for side in (labels, ~labels)
        if min(len(set(names[side & key])) for key in (plus, ~plus)) > 1
    ]


def balanced_design(statements: Sequence[TraitStatement], seed: int = 0) -> TextSet:
    """Each statement with both answers, labelled by what the answer says of the speaker.

    Agreeing with a positive statement and disagreeing with a negative one are the positive
    side. As many statements of either side are drawn as the smaller one has, by whole facets
    as far as that goes. Then each answer, and each statement, is on both sides equally often:
    neither tells the side alone, only the two together do. Groups are facets; read as the mean
    over the answer.

    Raises:
        InputError: A side has no statements.
    """
    positive, groups = statement_labels(statements)
    if not 0 < positive.sum() < len(positive):
        raise InputError("statements", "all are on one side", "both sides are needed")
    size, rng = int(min(positive.sum(), (~positive).sum())), np.random.default_rng(seed)
    order = {group: rank for rank, group in enumerate(rng.permutation(sorted(set(groups))))}
    drawn: list[int] = []
    for side in (positive, ~positive):
        drawn += sorted(np.flatnonzero(side).tolist(), key=lambda index: order[groups[index]])[
            :size
        ]
    rows = [(index, answer) for index in sorted(drawn) for answer in (AGREE, DISAGREE)]
    return TextSet(
        name="balanced_design",
        ids=tuple(f"{statements[i].id}/{'agree' if a == AGREE else 'disagree'}" for i, a in rows),
        prompts=tuple(statements[index].text for index, _ in rows),
        systems=(None,) * len(rows),
        completions=tuple(answer for _, answer in rows),
        labels=np.array([positive[index] == (answer == AGREE) for index, answer in rows]),
        groups=tuple(groups[index] for index, _ in rows),
        splits=("all",) * len(rows),
        reading="completion_mean",
        positive="agrees with a positive or disagrees with a negative statement",
        negative="agrees with a negative or disagrees with a positive statement",
    )
