"""Whether the constraint on the perturbation was binding: site by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.rows import RunRows
from figures.style import INK, WIDTH, Drawing, finite, in_order, number, plain
from figures.wording import count_of, listing
from lpa_interp.records import AttackSite

UNITS = {
    "l2_token": "attacked tokens",
    "l2_sequence": "examples",
    "linf": "coordinates of attacked tokens",
    "low_rank": "attacked tokens",
}
"""What each constraint set bounds one by one."""

PER_TOKEN = ("l2_token", "low_rank")
"""Sets whose radius bounds a token's L2 norm, so that the mean norm is a share of it."""

ROOM = 12
"""Steps and sites up to which a map also shows its numbers."""

Values = dict[tuple[str, int], float]
"""By hook name and step."""


def units_of(sites: Sequence[AttackSite]) -> str:
    """What the run's constraint sets bound, in words."""
    found = in_order(UNITS.get(site.constraint, "constrained units") for site in sites)
    return listing(found, "or") or "constrained units"


def norm_unit(sites: Sequence[AttackSite]) -> str:
    """What mean norms are divided by: ``radius``, or ``activation_norm`` for other sets."""
    per_token = all(site.constraint in PER_TOKEN for site in sites)
    return "radius" if per_token else "activation_norm"


def relative_norm(site: AttackSite, unit: str) -> float:
    """The mean norm as a share of ``radius`` or ``activation_norm``; NaN where there is none."""
    whole = number(getattr(site, unit))
    return number(site.mean_norm) / whole if whole > 0 else float("nan")


def draw_attack_sites(rows: RunRows) -> Drawing | None:
    """Two maps of site by step: share of units at the bound, and relative mean norm."""
    sites = sorted(rows.sites, key=lambda site: site.step)
    if not sites:
        return None
    names, unit = in_order(site.hook_name for site in sites), norm_unit(sites)
    where = "radius" if unit == "radius" else "activation norm"
    bound = {(s.hook_name, s.step): number(s.bound_fraction) for s in sites}
    norms = {(s.hook_name, s.step): relative_norm(s, unit) for s in sites}
    top = 1.0 if unit == "radius" else max(finite(norms.values()), default=1.0)
    fig = Figure(figsize=(WIDTH, 1.45 + 0.23 * max(len(names), 3)), layout="constrained")
    pair = fig.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    maps = (
        (bound, 1.0, "At the bound", f"share of {units_of(sites)}"),
        (norms, top, "Mean norm", f"share of the {where}"),
    )
    for ax, (values, high, title, label) in zip(pair, maps, strict=True):
        image = _draw_map(ax, values, names, Normalize(0.0, high or 1.0))
        ax.set_title(title)
        ax.set_xlabel("outer step")
        bar = fig.colorbar(image, ax=ax, location="bottom", label=label, aspect=28)
        bar.ax.xaxis.set_major_locator(MaxNLocator(5))
        bar.ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    return Drawing(
        figure=fig,
        table=[{**asdict(s), f"mean_norm_over_{unit}": _shown(s, unit)} for s in sites],
        title="Was the constraint binding? Site by site",
        caption=_caption(sites, where),
        alt=f"Two heat maps of {count_of(len(names), 'hook point')} by outer step: the share of "
        f"{units_of(sites)} at the bound, and the mean norm of the perturbation as a share of the "
        f"{where}.",
    )


def _shown(site: AttackSite, unit: str) -> float | None:
    return next(iter(finite([relative_norm(site, unit)])), None)


def _draw_map(ax: Axes, values: Values, names: list[str], norm: Normalize) -> AxesImage:
    steps = sorted({step for _, step in values})
    grid = np.full((len(names), steps[-1] - steps[0] + 1), np.nan)
    for (name, step), value in values.items():
        grid[names.index(name), step - steps[0]] = value
    ends = (steps[0] - 0.5, steps[-1] + 0.5, len(names) - 0.5, -0.5)
    image = ax.imshow(
        grid, cmap="YlGnBu", norm=norm, aspect="auto", interpolation="nearest", extent=ends
    )
    if len(names) <= ROOM and grid.shape[1] <= ROOM:
        _write_numbers(ax, grid, steps[0], norm)
    ax.set_yticks(range(len(names)), labels=[plain(name) for name in names])
    ax.tick_params(axis="y", length=0)
    for edge in range(1, len(names)):
        ax.axhline(edge - 0.5, color="white", lw=1.0)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    ax.grid(False)
    return image


def _write_numbers(ax: Axes, grid: np.ndarray, first: int, norm: Normalize) -> None:
    """Per cent in each cell; white on dark cells."""
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if norm(value) > 0.55 else INK
            place = (column + first, row)
            ax.text(
                *place, f"{100 * value:.0f}", color=colour, ha="center", va="center", fontsize=6.5
            )


def _caption(sites: list[AttackSite], where: str) -> str:
    n_steps = len({site.step for site in sites})
    if where == "radius":
        norm = "The mean L2 norm over attacked tokens is shown as a share of the radius. "
    else:
        norm = (
            "The radius of this set does not bound the L2 norm of a token, so the mean L2 norm "
            "over attacked tokens is shown as a share of the median activation norm there. "
        )
    return (
        f"Constraint set: {listing(in_order(s.constraint for s in sites))}. A unit counts as at "
        f"the bound within 1 % of it; units here are {units_of(sites)}. {norm}Per cent; one value "
        f"per site and step (n = {count_of(n_steps, 'step')}), one run, so no interval. Look for: "
        "dark rows on the left, where the constraint decided the attack's size; and pale ones, "
        "where it played no part and the attack was limited by its step size and number of steps."
    )
