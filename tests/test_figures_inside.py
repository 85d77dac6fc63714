"""Pictures of the inside: which rows each one shows, and that it claims no more than they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from io import BytesIO
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from figures.angles import draw_angles
from figures.causal import draw_causal_share
from figures.direction_findings import (
    other_trait_sentences,
    overlap_sentences,
    stability_sentences,
)
from figures.dose import draw_doses
from figures.findings import angle_sentences, probe_sentences
from figures.patching import draw_patches
from figures.probe_layers import draw_probe_layers
from figures.rows import RunRows
from figures.shift import draw_activation_shifts
from figures.stability import draw_stability
from figures.style import Drawing, look
from figures.subspaces import draw_subspaces
from figures.trait_angles import draw_trait_angles
from figures.transfer import draw_transfer
from figures.weights import draw_weight_alignments
from figures.wording import target_words
from lpa_interp.records import DirectionAngle, MediatedShare, ProbeScore
from tests import inside_rows as made

LAYERS = 3
DRAWERS: dict[str, tuple[Callable[[RunRows], Drawing | None], str, list[Any]]] = {
    "transfer": (draw_transfer, "transfer", list(made.transfers())),
    "probe_layers": (draw_probe_layers, "probe_scores", list(made.sweep(LAYERS, ("trait",)))),
    "angles": (draw_angles, "angles", list(made.angles(LAYERS))),
    "trait_angles": (draw_trait_angles, "trait_angles", list(made.other_traits(LAYERS))),
    "stability": (draw_stability, "stability", list(made.stabilities(LAYERS))),
    "subspace_angles": (
        draw_subspaces,
        "subspace_angles",
        list(made.subspace_overlaps(LAYERS)),
    ),
    "doses": (draw_doses, "doses", [d for d in made.doses() if d.model == "base"]),
    "causal_share": (draw_causal_share, "mediated_shares", list(made.shares())),
    "patches": (draw_patches, "patches", list(made.patches(LAYERS))),
    "activation_shifts": (
        draw_activation_shifts,
        "activation_shifts",
        list(made.activation_shifts(LAYERS)),
    ),
    "weight_alignments": (
        draw_weight_alignments,
        "weight_alignments",
        list(made.alignments(LAYERS)),
    ),
}
ESTIMATES = ("auroc", "value", "cosine", "overlap", "share", "recovered", "net_share", "gain",
             "refusal_log_odds", "change", "kl", "kl_harmless", "low", "high", "gain_low",
             "gain_high", "share_low", "share_high", "net_low", "net_high", "over_random_low",
             "over_matched_low", "recovered_low", "recovered_high", "null_low", "null_high",
             "p_value", "p_adjusted", "removed_norm_share", "top_singular_share")  # fmt: skip


def draw(name: str, rows: list[Any] | None = None) -> Drawing:
    drawer, field, found = DRAWERS[name]
    with look():
        drawing = drawer(RunRows(**{field: found if rows is None else rows}))
    assert drawing is not None
    return drawing


def saved(figure: Figure) -> bytes:
    with look():
        figure.savefig(buffer := BytesIO(), dpi=40, format="png")
    return buffer.getvalue()


def panel(drawing: Drawing, title: str) -> Axes:
    (ax,) = (ax for ax in drawing.figure.axes if ax.get_title(loc="left") == title)
    return ax


def marks(ax: Axes, *, hollow: bool) -> list[tuple[float, float]]:
    """Places of filled or of hollow markers."""
    return [
        (float(x), float(y))
        for line in ax.get_lines()
        if line.get_marker() not in ("", "None", "_", None)
        and (to_hex(line.get_markerfacecolor()) == "#ffffff") is hollow  # type: ignore[arg-type]
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)  # type: ignore[arg-type]
    ]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("name", DRAWERS)
def test_a_picture_is_drawn_with_n_a_control_and_what_to_look_for(name: str) -> None:
    drawing = draw(name)
    assert saved(drawing.figure).startswith(b"\x89PNG")
    for words in ("n = ", "Look for", "ontrol"):
        assert words in drawing.caption
    assert "interval" in drawing.caption
    assert drawing.alt.endswith(".") and drawing.title


@pytest.mark.parametrize("name", DRAWERS)
def test_without_rows_there_is_no_picture(name: str) -> None:
    assert DRAWERS[name][0](RunRows()) is None


@pytest.mark.parametrize("name", DRAWERS)
def test_a_single_row_is_enough(name: str) -> None:
    assert saved(draw(name, DRAWERS[name][2][:1]).figure)


@pytest.mark.parametrize("name", DRAWERS)
def test_values_that_are_null_leave_a_gap_and_no_error(name: str) -> None:
    found = DRAWERS[name][2]
    fields = [field for field in ESTIMATES if field in asdict(found[0])]
    blank = [replace(row, **dict.fromkeys(fields)) for row in found]
    drawing = draw(name, [*blank[:4], *found[4:]])
    assert saved(drawing.figure) and saved(draw(name, blank).figure)
    assert "nan" not in drawing.caption.split()


@pytest.mark.parametrize(
    "name",
    [
        "transfer",
        "angles",
        "trait_angles",
        "stability",
        "subspace_angles",
        "doses",
        "causal_share",
        "patches",
        "weight_alignments",
    ],
)
def test_the_table_holds_every_row(name: str) -> None:
    assert draw(name).table == [asdict(row) for row in DRAWERS[name][2]]


@pytest.mark.parametrize("field", ["train", "first", "direction", "group", "control_of"])
def test_names_from_data_are_not_read_as_mathematics(field: str) -> None:
    for name, (_, _, found) in DRAWERS.items():
        if field in asdict(found[0]) and name != "patches":
            hostile = [replace(row, **{field: "$\\frac{"}) for row in found]
            assert saved(draw(name, hostile).figure)


def test_a_probe_picture_selects_one_measure_with_its_control_and_nested_score() -> None:
    drawing = draw("probe_layers")
    kinds = {(row["measure"], row["control"]) for row in drawing.table}
    assert kinds == {
        ("auroc", "none"),
        ("auroc", "shuffled"),
        ("auroc_selectivity", "control_task"),
        ("auroc_nested", "none"),
        ("auroc_nested", "shuffled"),
    }
    assert "Not drawn, but in probes/scores.jsonl: balanced accuracy." in drawing.caption
    assert [ax.get_ylabel() for ax in drawing.figure.axes[::2]] == [
        "trait, token \N{MINUS SIGN}5\nAUROC",
        "selectivity",
    ]


def test_where_there_is_no_auroc_the_measure_that_is_there_is_drawn() -> None:
    scores = [s for s in made.sweep(LAYERS) if s.measure.startswith("balanced")]
    drawing = draw("probe_layers", scores)
    assert {row["measure"] for row in drawing.table} == {
        "balanced_accuracy",
        "balanced_accuracy_selectivity",
    }


def keying() -> list[ProbeScore]:
    """A check at one layer, as the study writes it beside the sweep."""
    one = next(made.sweep(LAYERS))
    return [replace(one, target="keying within side", method=m) for m in ("balanced", "plain")]


def test_a_check_at_one_layer_takes_no_panel_from_the_sweep_but_is_told() -> None:
    scores = [*made.sweep(LAYERS, ("trait",)), *keying()]
    drawing = draw("probe_layers", scores)
    assert {row["target"] for row in drawing.table} == {"trait"}
    assert "balanced accuracy and keying within side" in drawing.caption
    told = probe_sentences(RunRows(probe_scores=scores))
    (line,) = (line for line in told if line.startswith("keying within side, plain"))
    assert "at layer 1" in line and "biased" not in line


def test_probe_sentences_read_one_measure_and_give_the_nested_score() -> None:
    told = probe_sentences(RunRows(probe_scores=list(made.sweep(LAYERS, ("trait",)))))
    assert len(told) == 4  # two models, two methods
    assert all(f"the best of {LAYERS} layers" in line for line in told)
    assert all("With the layer chosen on inner folds 0.790" in line for line in told)
    assert all("p = 0.01), not biased by the choice" in line for line in told)
    assert all("Selectivity there +0." in line for line in told)


def test_a_cosine_is_filled_only_where_it_differs_from_every_null() -> None:
    angles = list(made.angles(8))
    ax = panel(draw("angles", angles), "trait and refusal: base")
    mine = [a for a in angles if (a.first, a.second, a.model) == ("trait", "refusal", "base")]
    clear = {a.layer for a in mine} - {a.layer for a in mine if a.p_adjusted > 0.05}
    some = {a.layer for a in mine if a.p_adjusted < 0.05}
    assert clear < some  # the isotropic null alone is easily left
    assert {x for x, _ in marks(ax, hollow=False)} == clear


def test_every_pair_and_frame_has_a_panel_and_none_is_empty() -> None:
    drawing = draw("angles", list(made.angles(LAYERS, frames=True)))
    titles = [ax.get_title(loc="left") for ax in drawing.figure.axes if ax.axison]
    assert len(titles) == len(set(titles)) == 10
    assert "shift and refusal: lpa, read in base" in titles


def test_angles_at_other_hook_points_are_another_line() -> None:
    angles = [a for a in made.angles(LAYERS) if a.second == "refusal" and a.first == "trait"]
    other = [replace(a, hook_name=f"blocks.{a.layer}.hook_mlp_out") for a in angles]
    drawing = draw("angles", angles + other)
    assert len([ax for ax in drawing.figure.axes if ax.axison]) == 4
    assert panel(drawing, "trait and refusal: lpa (mlp_out)")


def test_angle_sentences_tell_each_pair_once_with_every_null() -> None:
    angles: list[DirectionAngle] = list(made.angles(8))
    told = angle_sentences(RunRows(angles=angles))
    assert len(told) == 8
    assert "over 8 layers" in told[0]
    for null in made.NULLS:
        assert f"from {null}" in told[0]
    mine = [a for a in angles if (a.first, a.second, a.model) == ("trait", "refusal", "base")]
    clear = {a.layer for a in mine} - {a.layer for a in mine if a.p_adjusted > 0.05}
    assert f"{len(clear)} of them differ from every null (adjusted p < 0.05)" in told[0]
    assert "shift and trait, lpa" in told[-1] and "none differs detectably from every" in told[-1]


def test_the_band_of_a_cosine_is_its_interval_and_runs_without_one_say_so() -> None:
    angles = [a for a in made.angles(8) if (a.first, a.second) == ("trait", "refusal")]
    ax = panel(draw("angles", angles), "trait and refusal: base")
    mine = {a.layer: a for a in angles if a.model == "base"}
    bands: Any = [c.get_paths()[0].vertices for c in ax.collections if len(c.get_paths())]
    ends = {(float(x), round(float(y), 9)) for band in bands for x, y in band}
    for a in mine.values():
        assert {(float(a.layer), round(end, 9)) for end in (a.low or 0, a.high or 0)} <= ends
    assert "95 % bootstrap intervals" in draw("angles", angles).caption
    wide = [replace(a, low=-1.0, high=1.0) for a in angles]
    limits = [
        panel(draw("angles", rows), "trait and refusal: base").get_ylim() for rows in (wide, angles)
    ]
    assert limits[0] == pytest.approx(limits[1], abs=0.25) and limits[0][1] < 0.7
    old = [replace(a, low=None, high=None, level=None) for a in angles]
    assert "These cosines have no interval." in draw("angles", old).caption


def test_a_dot_marks_a_trait_only_where_it_leaves_every_null() -> None:
    found = list(made.other_traits(8))
    drawing = draw("trait_angles", found)
    ax = drawing.figure.axes[0]
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert "not evil (persona vectors)" in labels and "low narcissism (persona)" in labels
    both = marks(ax, hollow=False) + marks(ax, hollow=True)  # white on dark cells
    dots = {(int(x), labels[int(y)]) for x, y in both}
    base = [a for a in found if a.model == "base"]
    unclear = {(a.layer, a.first) for a in base if a.p_adjusted > 0.05}
    kept = {(a.layer, target_words(a.first)) for a in base if (a.layer, a.first) not in unclear}
    assert dots == kept and len(kept) > 0
    assert not [name for _, name in dots if name == "low narcissism (persona)"]
    told = other_trait_sentences(RunRows(trait_angles=found))
    assert len(told) == 2 and "2 of 3 traits differ from every null" in told[0]
    assert "not evil (persona vectors) at" in told[0] and "narcissism" not in told[0]


def test_a_steady_direction_is_filled_and_told_beside_its_null() -> None:
    found = list(made.stabilities(8))
    ax = panel(draw("stability", found), "trait")
    clear = [s for s in found if s.p_adjusted < 0.05]
    assert len(marks(ax, hollow=False)) == len(clear)
    assert len(marks(ax, hollow=True)) == len(found) - len(clear) > 0
    (line,) = stability_sentences(RunRows(stability=found))
    n = sum(s.model == "base" for s in clear)
    assert f"at {n} of 8 layers" in line and "Permuted labels reach +0.33" in line


def test_an_overlap_is_filled_only_where_it_is_above_every_null() -> None:
    found = list(made.subspace_overlaps(8))
    ax = panel(draw("subspace_angles", found), "trait and refusal: lpa")
    mine = [a for a in found if a.model == "lpa"]
    clear = {a.layer for a in mine} - {a.layer for a in mine if a.p_adjusted > 0.05}
    assert {x for x, _ in marks(ax, hollow=False)} == clear
    assert 0 < len(clear) < 8
    told = overlap_sentences(RunRows(subspace_angles=found))
    assert f"above every null (adjusted p < 0.05) at {len(clear)} of 8 layers" in told[1]
    nothing = [replace(a, p_adjusted=0.4) for a in found]
    assert "at none of 8 layers" in overlap_sentences(RunRows(subspace_angles=nothing))[0]
    below = [replace(a, overlap=0.01, p_adjusted=0.01) for a in found]
    assert "at none of 8 layers" in overlap_sentences(RunRows(subspace_angles=below))[0]
    assert not marks(panel(draw("subspace_angles", below), "trait and refusal: lpa"), hollow=False)


def test_the_sets_that_texts_are_from_are_named_under_the_shift() -> None:
    caption = draw("activation_shifts").caption
    assert "neutral n = 80 of alpaca" in caption and "harmful n = 80 of builtin" in caption


def test_transfer_is_marked_where_it_survives_correction_and_never_on_the_diagonal() -> None:
    found = list(made.transfers())
    ax = panel(draw("transfer"), "base, layer 2")
    bold = [text.get_text() for text in ax.texts if text.get_fontweight() == "bold"]
    base = [t for t in found if t.model == "base"]
    expected = [t.auroc for t in base if t.p_adjusted is not None and t.p_adjusted < 0.05]
    assert sorted(bold) == sorted(f"{value:.2f}" for value in expected)
    assert len(ax.get_xticklabels()) == 3
    assert "n = 100" in ax.get_xticklabels()[1].get_text()


def test_only_one_transfer_matrix_of_a_model_is_drawn_and_the_caption_says_so() -> None:
    found = list(made.transfers())
    other = [replace(t, hook_name="blocks.3.hook_resid_pre", layer=3) for t in found]
    drawing = draw("transfer", found + other)
    assert {row["layer"] for row in drawing.table} == {2}
    assert "The first matrix of each model is drawn, 2 of 4 matrices." in drawing.caption


def share_axes(rows: list[MediatedShare]) -> tuple[Drawing, Axes, Axes]:
    drawing = draw("causal_share", rows)
    left, right = drawing.figure.axes[:2]
    return drawing, left, right


def harmful() -> list[MediatedShare]:
    return [s for s in made.shares() if s.side == "harmful"]


def test_the_gain_and_its_shares_are_on_one_scale() -> None:
    _, left, right = share_axes(harmful())
    gain = made.GAIN["harmful"]
    assert left.get_ylim() == pytest.approx([gain * end for end in right.get_ylim()])
    assert "+1.24 nats\n(+1.08 to +1.42)" in left.get_xticklabels()[0].get_text()
    assert {"none\nof it", "the whole\ngain"} <= set(texts(right))


def test_an_ablation_that_damaged_the_model_is_hollow_and_in_brackets() -> None:
    drawing, _, right = share_axes(harmful())
    assert [round(y, 3) for _, y in marks(right, hollow=True)] == [
        round(s.share or 0, 3) for s in harmful() if s.damaged
    ]
    assert "(30 %)" in texts(right) and "30 %" not in texts(right)
    assert "trait, k = 8, KL 1.6" in drawing.caption
    assert "KL 1.6" in right.get_xticklabels()[3].get_text()


def test_only_a_share_above_both_controls_has_a_star() -> None:
    _, _, right = share_axes(harmful())
    assert [text for text in texts(right) if "*" in text] == ["18 % *", "27 % *", "94 % *"]
    near = [replace(s, over_matched_low=-0.01) for s in harmful()]
    assert not [text for text in texts(share_axes(near)[2]) if "*" in text]


def test_where_there_is_no_gain_the_picture_says_so_in_words() -> None:
    drawing = draw("causal_share")
    words = " ".join(texts(drawing.figure.axes[3])[0].split())
    assert "No share of the gain exists on harmless requests (no clear gain: 0.03 nats," in words
    assert "No share of the gain exists on harmless requests" in drawing.caption
    assert saved(draw("causal_share", [s for s in made.shares() if s.side == "harmless"]).figure)


def test_one_broken_share_does_not_squeeze_the_others() -> None:
    wild = [
        replace(s, share=9.0, share_high=14.0, damaged=True) if s.ablated == "refusal" else s
        for s in harmful()
    ]
    _, _, right = share_axes(wild)
    assert right.get_ylim()[1] < 1.3
    assert "(900 %)" in texts(right)
    assert max(y for _, y in marks(right, hollow=True)) < right.get_ylim()[1]


def test_doses_above_one_nat_are_hollow_in_both_panels() -> None:
    found = list(made.doses())
    drawing = draw("doses")
    odds, kl = (drawing.figure.axes[index] for index in (0, 4))
    cell = [d for d in found if (d.model, d.side, d.intervention) == ("base", "harmful", "add")]
    broken = sorted(d.dose for d in cell if d.kl > 1)
    assert broken
    for ax in (odds, kl):
        assert sorted(x for x, _ in marks(ax, hollow=True)) == broken
    assert len(marks(odds, hollow=False)) == len(cell) - len(broken)


def test_a_dose_of_zero_is_the_unmodified_model() -> None:
    drawing = draw("doses")
    line = max(drawing.figure.axes[0].get_lines(), key=lambda line: len(line.get_xdata()))  # type: ignore[arg-type]
    at = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))  # type: ignore[arg-type]
    first = next(made.doses())
    assert at[0.0] == pytest.approx(first.refusal_log_odds - first.change)


def test_the_controls_of_two_directions_are_told_apart_by_what_they_control() -> None:
    labels = [text.get_text() for text in draw("doses").figure.legends[0].get_texts()]
    assert {"random, norm of trait", "random, norm of refusal", "trait, layer 12"} <= set(labels)


def test_patches_of_a_side_without_a_gain_are_words_not_panels() -> None:
    drawing = draw("patches")
    assert {ax.get_title(loc="left") for ax in drawing.figure.axes} == {
        "Harmful, last token",
        "Harmful, all tokens after the instruction",
    }
    reason = "Harmless requests have no share: no clear gain: 0.03 nats, \N{MINUS SIGN}0.13 to 0.21"
    assert reason in drawing.caption
    nothing = draw("patches", [p for p in made.patches(LAYERS) if p.side == "harmless"])
    assert not nothing.figure.axes and reason in nothing.figure.texts[0].get_text()


def test_a_shift_along_a_direction_is_set_against_the_stricter_null() -> None:
    drawing = draw("activation_shifts")
    along = {row["null"] for row in drawing.table if row["measure"] == "shift_along"}
    assert along == {made.COVARIANCE}
    assert {row["measure"] for row in drawing.table} == {"relative_shift", "cka", "shift_along"}
    assert "shares of the squared shift" in drawing.caption


def test_a_direction_known_at_one_layer_is_named_and_not_drawn() -> None:
    shifts = list(made.activation_shifts(LAYERS))
    other = [replace(s, direction="ipip:openness") for s in shifts if s.measure == "shift_along"]
    drawing = draw("activation_shifts", shifts + [s for s in other if s.layer == 1])
    assert "ipip:openness" not in {row["direction"] for row in drawing.table}
    assert "shift along the ipip:openness direction" in drawing.caption
    found = list(made.alignments(LAYERS))
    other_weights = [replace(a, direction="ipip:openness") for a in found if a.layer == 1]
    drawing = draw("weight_alignments", found + other_weights)
    assert len(drawing.table) == len(found)
    assert "Not drawn, but in probes/weight_alignment.jsonl: ipip:openness." in drawing.caption


def test_a_weight_is_filled_only_where_it_differs_from_every_null() -> None:
    found = [a for a in made.alignments(6) if (a.direction, a.side) == ("trait", "writes")]
    ax = panel(draw("weight_alignments", found), "Writes into the trait direction")
    clear = [a for a in found if a.null == made.COVARIANCE and a.p_adjusted < 0.05]
    assert clear and len(clear) < sum(a.p_adjusted < 0.05 for a in found) / 2 + 1
    filled = sorted(y for _, y in marks(ax, hollow=False))
    assert filled == pytest.approx(sorted(a.share for a in clear))
