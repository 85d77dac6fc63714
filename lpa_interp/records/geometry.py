"""Rows of ``probes/`` about angles: between directions, subspaces, weights and shifts.

Each row compares a value with a null. ``null_low`` and ``null_high`` hold the central 95 % of
the null, ``p_value`` is two-sided (unless said) with the add-one correction and ``p_adjusted`` is
Benjamini-Hochberg over the tests that the record's docstring names.
"""

from __future__ import annotations

from dataclasses import dataclass

from lpa_interp.records.labels import ModelLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionAngle:
    """Cosine of two directions at one layer against a null, a row of ``probes/angles.jsonl``.

    Those of other traits, such as personas, with refusal are in ``probes/trait_angles.jsonl``.
    ``null`` is ``labels permuted by facet``, ``random`` (isotropic) or ``random with the
    activations' covariance``, and ``n_permutations`` the number of its draws. ``p_adjusted`` is
    over the layers of one pair and null. ``frame`` is the model whose activations the
    directions were read in; None means ``model`` itself.

    ``low`` and ``high`` bound the bootstrap interval at ``level``, over the texts behind both
    directions, of the cosine that ever more such texts would lead to. Noise of few texts draws
    ``cosine`` towards zero and the interval allows for it, so that it need not hold ``cosine``.
    All three are null where the texts behind a direction are not known.
    """

    model: ModelLabel
    first: str
    second: str
    hook_name: str
    layer: int
    cosine: float
    null: str
    null_low: float
    null_high: float
    p_value: float
    p_adjusted: float
    n_permutations: int
    n_first: int
    n_second: int
    seed: int
    frame: ModelLabel | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubspaceAngle:
    """Two subspaces at one layer against a null, a row of ``probes/subspace_angles.jsonl``.

    ``overlap`` is the mean squared cosine of the principal angles: 1 where the smaller subspace
    lies inside the larger, 0 where they are orthogonal. ``largest_cosine`` belongs to the
    smallest angle. The null puts random subspaces of dimension ``k_first`` in the place of the
    first; its band and p are those of ``overlap``. ``p_adjusted`` is over the layers of one pair
    and null.
    """

    model: ModelLabel
    first: str
    second: str
    layer: int
    k_first: int
    k_second: int
    overlap: float
    largest_cosine: float
    null: str
    null_low: float
    null_high: float
    p_value: float
    p_adjusted: float
    n_null: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightAlignment:
    """How much of a LoRA update lies along a direction, a row of ``probes/weight_alignment.jsonl``.

    ``side`` says whether the update ``reads`` from the residual stream (q, k, v, up, gate) or
    ``writes`` into it (o, down). ``share`` is the squared Frobenius norm of the update's part
    along the direction or subspace (of ``k`` dimensions) over that of the whole update, on the
    residual side and with the gain of the norm in between; ``expected`` is k / d_model, that of
    an isotropic direction. ``top_singular_share`` is the share of the update's first singular
    direction. The null puts random directions in the place of ``direction``. ``p_adjusted`` is
    over the layers and roles of one direction and null.
    """

    layer: int
    role: str
    side: str
    direction: str
    k: int
    share: float
    expected: float
    null: str
    null_low: float
    null_high: float
    p_value: float
    p_adjusted: float
    rank: int
    top_singular_share: float
    n_null: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationShift:
    """How LPA moved the activations of some texts, a row of ``probes/activation_shifts.jsonl``.

    ``measure`` is ``cka`` (debiased linear CKA of base and lpa activations, 1 for no change),
    ``relative_shift`` (norm of the mean shift, lpa minus base, in units of the median norm of
    the base activations), ``shift_along`` (the mean shift's signed length along ``direction``
    in the same unit) or ``shift_share`` (the share of its squared norm along ``direction``).
    Squared norms leave out the products of a text with itself, so that a share can lie a little
    outside 0 to 1.
    ``group`` says what kind of texts moved (``statements``, ``harmful``, ``harmless`` requests,
    ``neutral`` prompts) and ``source`` which set they are from.
    ``low`` and ``high`` hold the 95 % bootstrap interval over texts, or over blocks of texts.
    ``null`` is ``texts permuted`` for ``cka``, ``signs flipped`` for ``relative_shift`` and
    ``random`` or ``random with the activations' covariance`` for the others, which draw
    directions. The p of the first two is one-sided: nearer than unrelated texts, larger than
    chance. ``p_adjusted`` is over the layers of one measure, direction and null.
    """

    group: str
    hook_name: str
    layer: int
    position: int
    measure: str
    direction: str
    value: float
    low: float
    high: float
    null: str
    null_low: float
    null_high: float
    p_value: float
    p_adjusted: float
    n: int
    n_blocks: int
    n_null: int
    n_bootstrap: int
    seed: int
    source: str = ""
