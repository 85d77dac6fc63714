"""Pictures: what they show is what the rows hold, in three formats, or they are not drawn."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from figures import RunRows, draw_all
from figures.gallery import PICTURES, Picture, draw_rows
from figures.rows import FILES
from figures.sites import draw_attack_sites
from figures.style import look, plain, save_figure
from figures.training import STATES, draw_training_curves
from tests.test_figures_rows import demo_rows, demo_run, unattacked


@pytest.fixture(scope="module")
def drawn() -> Path:
    return demo_run()


def read_csv(run: Path, name: str) -> list[dict[str, str]]:
    with (run / "figures" / f"{name}.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def as_text(row: Any) -> dict[str, str]:
    return {k: "" if v is None else str(v) for k, v in asdict(row).items()}


@pytest.mark.parametrize("name", [picture.name for picture in PICTURES])
def test_every_picture_is_written_in_three_formats(drawn: Path, name: str) -> None:
    heads = {"png": b"\x89PNG", "pdf": b"%PDF"}
    for suffix, head in heads.items():
        assert (drawn / "figures" / f"{name}.{suffix}").read_bytes().startswith(head)
    assert read_csv(drawn, name)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("training_curves", "training"),
        ("behaviour", "scores"),
        ("probe_layers", "probe_scores"),
        ("refusal_candidates", "candidates"),
        ("angles", "angles"),
        ("trait_angles", "trait_angles"),
        ("stability", "stability"),
        ("subspace_angles", "subspace_angles"),
    ],
)
def test_the_table_holds_exactly_the_rows(drawn: Path, name: str, field: str) -> None:
    found = sorted(read_csv(drawn, name), key=str)
    assert found == sorted((as_text(row) for row in getattr(demo_rows(), field)), key=str)


def test_the_projection_table_holds_every_text_and_the_median_of_each_group(drawn: Path) -> None:
    rows = read_csv(drawn, "projections")
    key = ("lpa", "trait", "harmful")
    group = [r for r in rows if (r["model"], r["direction"], r["group"]) == key]
    texts = sorted(float(r["value"]) for r in group if r["kind"] == "text")
    medians = [float(r["value"]) for r in group if r["kind"] == "median"]
    assert medians == [(texts[5] + texts[6]) / 2]
    assert sum(r["kind"] == "text" for r in rows) == len(demo_rows().projections)


def test_the_ablation_table_leaves_out_only_the_unmodified_model(drawn: Path) -> None:
    shown = [as_text(row) for row in demo_rows().ablations if row.ablated != "none"]
    assert read_csv(drawn, "ablations") == shown


def test_the_feature_table_holds_shifts_overlaps_and_quality(drawn: Path) -> None:
    rows, expected = read_csv(drawn, "features"), demo_rows()
    counts = {
        kind: sum(r["table"] == kind for r in rows) for kind in ("shift", "overlap", "quality")
    }
    assert counts == {
        "shift": len(expected.shifts),
        "overlap": len(expected.overlaps),
        "quality": len(expected.qualities),
    }


def test_the_site_table_holds_every_site_and_its_norm_as_a_share_of_the_radius(drawn: Path) -> None:
    found, expected = read_csv(drawn, "attack_sites"), demo_rows().sites
    assert len(found) == len(expected)
    for row, site in zip(found, expected, strict=True):
        assert float(row.pop("mean_norm_over_radius")) == pytest.approx(
            site.mean_norm / site.radius
        )
        assert row == as_text(site)


@pytest.mark.parametrize("constraint", ["linf", "l2_sequence"])
def test_where_the_radius_bounds_no_token_norms_are_told_in_activation_norms(
    constraint: str,
) -> None:
    sites = [replace(site, constraint=constraint) for site in demo_rows().sites]
    drawing = draw_attack_sites(RunRows(sites=sites))
    assert drawing is not None
    assert "share of the median activation norm" in drawing.caption
    for row, site in zip(drawing.table, sites, strict=True):
        share = row["mean_norm_over_activation_norm"]
        assert share == pytest.approx(site.mean_norm / site.activation_norm)


def test_losses_are_drawn_without_the_attack_under_it_and_after_the_update() -> None:
    steps = demo_rows().training
    drawing = draw_training_curves(RunRows(training=steps))
    assert drawing is not None
    toward = drawing.figure.axes[0].get_lines()
    assert [line.get_label() for line in toward] == [curve.label for curve in STATES]
    for line, field in zip(toward, ("_start", "", "_after"), strict=True):
        assert list(line.get_ydata()) == [getattr(step, f"attack_toward{field}") for step in steps]


def test_a_method_without_an_attack_has_no_attack_line() -> None:
    drawing = draw_training_curves(RunRows(training=unattacked(demo_rows().training)))
    assert drawing is not None and "Nothing was done to the activations" in drawing.caption
    labels = [line.get_label() for line in drawing.figure.axes[0].get_lines()]
    assert labels == ["before the update", "after the update"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("defence_kl = 1.0", "KL to the base"),
        ("defence_sft = 1.5\ndefence_kl = 0.0", "cross entropy"),
        ("defence_representation = 10.0", "activation units"),
        ("defence_sft = 1.0\ndefence_kl = 1.0", "as logged"),
        ("not toml", "as logged"),
    ],
)
def test_the_retain_loss_is_named_after_the_term_that_the_study_uses(
    settings: str, words: str
) -> None:
    rows = RunRows(training=demo_rows().training, study=f"[train]\n{settings}\n")
    drawing = draw_training_curves(rows)
    assert drawing is not None
    assert words in drawing.figure.axes[3].get_ylabel()


def test_a_run_without_rows_has_no_picture(tmp_path: Path) -> None:
    assert draw_all(tmp_path) == []
    assert not list(tmp_path.rglob("*.png"))


def test_only_pictures_with_rows_are_drawn(tmp_path: Path) -> None:
    made = draw_rows(RunRows(ablations=demo_rows().ablations), tmp_path)
    assert [figure.name for figure in made] == ["ablations"]


def test_a_picture_whose_rows_are_gone_is_removed(tmp_path: Path) -> None:
    rows = RunRows(angles=demo_rows().angles)
    draw_rows(rows, tmp_path)
    draw_rows(RunRows(), tmp_path)
    assert list((tmp_path / "figures").iterdir()) == []


def test_one_row_of_each_kind_is_enough(tmp_path: Path) -> None:
    rows = demo_rows(layers=1, texts=1)
    single = {name: getattr(rows, name)[:1] for name in FILES}
    single["ablations"] = rows.ablations[1:2]
    made = draw_rows(RunRows(**single), tmp_path)
    assert [figure.name for figure in made] == [picture.name for picture in PICTURES]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.name)
def test_captions_say_n_and_every_picture_has_alt_text(picture: Picture) -> None:
    drawing = picture.draw(demo_rows())
    assert drawing is not None and drawing.alt.strip()
    assert "Look for" in drawing.caption
    if picture.name not in ("training_curves", "refusal_candidates"):
        assert "n = " in drawing.caption


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = RunRows(training=demo_rows().training)
    with look():
        for name in ("first", "second"):
            drawing = draw_training_curves(rows)
            assert drawing is not None
            save_figure(drawing.figure, drawing.table, tmp_path / name)
    for suffix in ("png", "pdf", "csv"):
        first, second = (tmp_path / f"{name}.{suffix}" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_labels_from_data_are_not_read_as_mathematics(tmp_path: Path) -> None:
    assert plain("$x_\n") == r"\$x_\n"
    candidates = [replace(c, token="$\\frac{\u4e2d") for c in demo_rows(layers=3).candidates]
    assert draw_rows(RunRows(candidates=candidates), tmp_path)


def test_many_directions_are_drawn_evenly_spaced_and_the_caption_says_so(tmp_path: Path) -> None:
    one = demo_rows(texts=2).projections[0]
    many = [replace(one, hook_name=f"blocks.{i}.hook_resid_post", layer=i) for i in range(11)]
    (figure,) = draw_rows(RunRows(projections=many), tmp_path)
    assert "6 of 11 directions are drawn" in figure.caption
    shown = {row["layer"] for row in read_csv(tmp_path, "projections")}
    assert shown == {"0", "2", "4", "6", "8", "10"}


def test_every_field_of_the_rows_is_read_from_a_file_or_is_about_the_run() -> None:
    assert {f.name for f in fields(RunRows)} == {*FILES, "provenance", "study"}


def test_the_package_needs_no_torch() -> None:
    code = (
        "import sys, figures; assert 'matplotlib' not in sys.modules; figures.write_report; "
        "bad = {'torch', 'transformer_lens', 'scipy', 'probes', 'experiments'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
