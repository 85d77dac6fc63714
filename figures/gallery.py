"""Every picture of a run: which rows it needs, who draws it, where it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from figures.ablation import draw_ablations
from figures.angles import draw_angles
from figures.behaviour import draw_behaviour
from figures.causal import draw_causal_share
from figures.dose import draw_doses
from figures.features import draw_features
from figures.patching import draw_patches
from figures.probe_layers import draw_probe_layers
from figures.probing import draw_projections
from figures.refusal import draw_refusal_candidates
from figures.rows import FILES, RunRows, load_rows
from figures.shift import draw_activation_shifts
from figures.sites import draw_attack_sites
from figures.stability import draw_stability
from figures.style import Drawing, FigureInfo, look, save_figure
from figures.subspaces import draw_subspaces
from figures.training import draw_training_curves
from figures.trait_angles import draw_trait_angles
from figures.transfer import draw_transfer
from figures.weights import draw_weight_alignments

Drawer = Callable[[RunRows], Drawing | None]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that a run may have. ``needs`` names fields of `RunRows`, any of which do."""

    name: str
    title: str
    needs: tuple[str, ...]
    draw: Drawer

    @property
    def sources(self) -> list[str]:
        """The files of the run directory that the picture is drawn from."""
        return [FILES[name][0] for name in self.needs]


PICTURES = (
    Picture("training_curves", "Training curves", ("training",), draw_training_curves),
    Picture("attack_sites", "Attack constraint by site", ("sites",), draw_attack_sites),
    Picture("behaviour", "Behaviour", ("scores",), draw_behaviour),
    Picture("probe_layers", "Trait probes by layer", ("probe_scores",), draw_probe_layers),
    Picture("stability", "Split-half stability", ("stability",), draw_stability),
    Picture("transfer", "Transfer between sets of texts", ("transfer",), draw_transfer),
    Picture("projections", "Projections", ("projections",), draw_projections),
    Picture(
        "refusal_candidates",
        "Search for the refusal direction",
        ("candidates",),
        draw_refusal_candidates,
    ),
    Picture("angles", "Angle between the directions", ("angles",), draw_angles),
    Picture(
        "trait_angles",
        "Angles of other traits to the refusal direction",
        ("trait_angles",),
        draw_trait_angles,
    ),
    Picture("subspace_angles", "Overlap of the subspaces", ("subspace_angles",), draw_subspaces),
    Picture(
        "activation_shifts",
        "Where training moved the residual stream",
        ("activation_shifts",),
        draw_activation_shifts,
    ),
    Picture(
        "weight_alignments",
        "What the trained weights read and write",
        ("weight_alignments",),
        draw_weight_alignments,
    ),
    Picture("ablations", "Ablations", ("ablations",), draw_ablations),
    Picture("doses", "Dose and response", ("doses",), draw_doses),
    Picture("patches", "Activation patching", ("patches",), draw_patches),
    Picture("causal_share", "Causal share", ("mediated_shares",), draw_causal_share),
    Picture("features", "SAE features", ("shifts", "overlaps", "qualities"), draw_features),
)


def draw_all(run: Path) -> list[FigureInfo]:
    """Draws every picture that the run has rows for into ``run/figures``.

    A picture whose rows are absent is not drawn, and one left from an earlier state of the
    run is removed, so that the folder never shows what the rows no longer say.

    Raises:
        InputError: ``run`` is no directory, a file in it is malformed, or cannot be written.
    """
    return draw_rows(load_rows(run), run)


def draw_rows(rows: RunRows, run: Path) -> list[FigureInfo]:
    """`draw_all` for rows that are loaded already."""
    made = []
    with look():
        for picture in PICTURES:
            base = run / "figures" / picture.name
            drawing = picture.draw(rows)
            if drawing is None:
                for suffix in ("png", "pdf", "csv"):
                    base.with_name(f"{base.name}.{suffix}").unlink(missing_ok=True)
                continue
            files = save_figure(drawing.figure, drawing.table, base)
            made.append(
                FigureInfo(
                    name=picture.name,
                    title=drawing.title,
                    caption=drawing.caption,
                    alt=drawing.alt,
                    files=files,
                )
            )
    return made
