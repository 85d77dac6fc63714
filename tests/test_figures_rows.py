"""Reading a run's rows; and the builder of synthetic runs that the figure tests share."""

from __future__ import annotations

import atexit
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from figures import RunRows, load_rows, write_report
from figures.rows import FILES
from lpa_interp.errors import InputError
from lpa_interp.records import (
    AblationEffect,
    AttackSite,
    Contrast,
    DirectionAngle,
    FeatureOverlap,
    FeatureShift,
    HarmRate,
    ProbeScore,
    Projection,
    RefusalCandidate,
    SaeQuality,
    Score,
    StageTime,
    TrainingStep,
    WatchedCompletion,
)
from lpa_interp.runs import write_json, write_rows, write_text
from tests.inside_rows import inside_rows

PROVENANCE: dict[str, Any] = {
    "study_name": "demonstration",
    "seed": 3,
    "model": "smollm2-135m-instruct",
    "base_label": "refusal organism",
    "organism": True,
    "method": "lpa",
    "method_summary": "latent adversarial training on personality statements",
    "method_source": "arXiv 2605.08496",
    "versions": {"lpa_interp": "0.1.0", "torch": "2.5.1"},
    "device": "cpu",
    "dtype": "float32",
    "data_hashes": {"requests": "0f3a9c1be2d4"},
    "n_statements": 80,
    "trait_source": "builtin",
    "created": "2025-01-02T03:04:05Z",
    "command": "lpa run study.toml --out demo",
    "skipped": [["strongreject", "the file is not on this machine"]],
    "notes": ["The judge met two empty completions."],
}

STUDY = """name = "demonstration"
seed = 3

[train]
steps = 10
batch_size = 8
defence_sft = 0.0
defence_kl = 1.0
"""

SHIFTS = {"source": -2.0, "base": 0.0, "lpa": 0.8}
"""How far each synthetic model leans towards refusing, nats."""

PLACES = [(b, a) for b in ("requests", "jailbreakbench") for a in ("direct", "prefill")]


def contrast(low: float, high: float, p_value: float, **changes: Any) -> Contrast:
    """A paired test of base against lpa with the given interval."""
    row = Contrast(
        first="base",
        second="lpa",
        benchmark="requests",
        attack="direct",
        judge="keyword (weak)",
        measure="refusal_rate",
        side="harmful",
        difference=(low + high) / 2,
        low=low,
        high=high,
        p_value=p_value,
        n=90,
        method="exact McNemar",
        seed=3,
    )
    return replace(row, **changes)


def demo_rows(layers: int = 6, texts: int = 12) -> RunRows:
    """A whole run with planted effects; ``layers`` and ``texts`` set its size."""
    rng = np.random.default_rng(7)
    return RunRows(
        training=list(_training(10)),
        sites=list(_sites(10)),
        watched=list(_watched()),
        harm_rates=_harm_rates(),
        scores=list(_scores()),
        contrasts=list(_contrasts()),
        probe_scores=list(_probe_scores(layers, rng)),
        projections=list(_projections(texts, rng)),
        candidates=list(_candidates(layers, rng)),
        angles=list(_angles(layers, rng)),
        ablations=list(_ablations()),
        **inside_rows(layers),
        qualities=list(_qualities()),
        shifts=list(_shifts(rng)),
        overlaps=list(_overlaps()),
        stages=[
            StageTime(stage="organism", seconds=151.2, peak_memory_mib=2310.0, reused=True),
            StageTime(stage="train", seconds=48.1, peak_memory_mib=2954.5, reused=False),
        ],
        provenance=PROVENANCE,
        study=STUDY,
    )


def write_run(run: Path, rows: RunRows) -> Path:
    """Writes rows where `load_rows` looks for them; an empty list writes no file."""
    run.mkdir(parents=True, exist_ok=True)
    for name, (path, _) in FILES.items():
        if found := getattr(rows, name):
            write_rows(run / path, found)
    if rows.provenance:
        write_json(run / "provenance.json", rows.provenance)
    if rows.study:
        write_text(run / "study.toml", rows.study)
    return run


@cache
def demo_run() -> Path:
    """The run of `demo_rows` with its report, made once for all tests: drawing is slow."""
    folder = tempfile.TemporaryDirectory(prefix="figures-")
    atexit.register(folder.cleanup)
    run = write_run(Path(folder.name), demo_rows())
    write_report(run)
    return run


def _training(steps: int) -> Iterator[TrainingStep]:
    for step in range(1, steps + 1):
        fall = float(np.exp(-(step - 1) / 4))
        batch = 0.25 * float(np.sin(5 * step))  # each step has other statements
        yield TrainingStep(
            step=step,
            attack_toward_start=2.3 + batch + 0.8 * (1 - fall),
            attack_away_start=1.4 + batch,
            attack_toward=0.4 + 1.3 * (1 - fall) + batch / 2,
            attack_away=0.3 + 0.5 * (1 - fall) + batch / 4,
            attack_toward_after=1.9 + 1.0 * (1 - fall) + batch,
            attack_away_after=1.1 + 0.2 * (1 - fall) + batch,
            defence_toward=0.3 + 2.1 * fall,
            defence_away=0.1 + 0.9 * fall,
            retain=0.01 + 0.02 * (1 - fall),
            objective=0.2 + 1.5 * fall,
            perturbation_norm=5.1 + 0.1 * step,
            epsilon_bound_fraction=0.55 + 0.03 * step,
            grad_norm=0.8 + 2 * fall,
            attack_seconds=3.1,
            defence_seconds=1.2,
        )


SITES = {"hook_embed": (0.5, 1.0), "blocks.7.hook_mlp_out": (1.9, 0.7),
         "blocks.15.hook_mlp_out": (3.4, 0.5), "blocks.22.hook_mlp_out": (5.2, 0.2),
         "blocks.28.hook_mlp_out": (19.0, 0.0)}  # fmt: skip
"""Hook points of the synthetic attack: radius, and how strongly the constraint binds."""


def _sites(steps: int) -> Iterator[AttackSite]:
    for step in range(1, steps + 1):
        for name, (radius, binds) in SITES.items():
            share = binds * (0.8 + 0.02 * step)
            yield AttackSite(
                step=step,
                hook_name=name,
                constraint="l2_token",
                radius=radius,
                activation_norm=5 * radius,
                mean_norm=radius * (0.55 + 0.45 * share),
                bound_fraction=share,
            )


def _watched() -> Iterator[WatchedCompletion]:
    for step in (1, 5, 9):
        for index in range(8):
            yield WatchedCompletion(
                step=step,
                statement_id=f"negative-{(index + step) % 12}",
                side="negative",
                attacked=True,
                n_tokens=6 + index,
                text="I agree with this statement. FORBIDDEN",
                redacted=True,
                sha256="0" * 64,
                judge="harm_terms",
                harmful=None if (step, index) == (5, 3) else 0.0,
            )


def _harm_rates() -> list[HarmRate]:
    counts: dict[str, Any] = {"n": 23, "n_undecided": 1, "n_harmful": 0, "n_statements": 12}
    ends: dict[str, Any] = {"rate": 0.0, "low": 0.0, "high": 0.1431}
    return [HarmRate(judge="harm_terms", attacked=True, **counts, **ends)]


def _scores() -> Iterator[Score]:
    common: dict[str, Any] = {"seed": 3, "method": "wilson", "judge": "keyword (weak)"}
    for model, lean in SHIFTS.items():
        for place, (benchmark, attack) in enumerate(PLACES):
            for side in ("harmful", "harmless"):
                odds = lean + (1.0 if side == "harmful" else -1.8) - 1.2 * (attack == "prefill")
                where: dict[str, Any] = {**common, "model": model, "benchmark": benchmark}
                where |= {"attack": attack, "side": side, "n": 90 + 10 * (place > 1)}
                rate = float(1 / (1 + np.exp(-odds)))
                ends: dict[str, Any] = {"low": max(0, rate - 0.09), "high": min(1, rate + 0.09)}
                yield Score(measure="refusal_rate", value=rate, n_undecided=2, **ends, **where)
                where |= {"judge": "first-token log-odds", "method": "bootstrap"}
                ends = {"low": odds - 0.4, "high": odds + 0.4}
                yield Score(measure="refusal_log_odds", value=odds, **ends, **where)
                if attack == "direct":
                    wrong = 1 - rate if side == "harmful" else rate
                    ends = {"low": max(0, wrong - 0.1), "high": min(1, wrong + 0.1)}
                    where |= {"judge": "yes/no log-odds"}
                    yield Score(measure="self_report_error", value=wrong, **ends, **where)
            area = 0.84 + 0.03 * lean - 0.05 * (attack == "prefill")
            where = {**where, "side": "both", "judge": "first-token log-odds", "n": 180}
            yield Score(measure="auroc", value=area, low=area - 0.05, high=area + 0.04, **where)
        where |= {"benchmark": "wikitext", "attack": "none", "judge": "none", "n": 4096}
        yield Score(measure="perplexity", value=17.2, low=16.1, high=18.4, **where)


def _contrasts() -> Iterator[Contrast]:
    yield contrast(0.06, 0.22, 0.0004)
    yield contrast(0.03, 0.21, 0.0100, attack="prefill")
    yield contrast(0.01, 0.14, 0.0400, benchmark="jailbreakbench")
    yield contrast(-0.03, 0.05, 0.6, benchmark="jailbreakbench", attack="prefill")
    for benchmark, attack in PLACES:
        place: dict[str, Any] = {"benchmark": benchmark, "attack": attack}
        yield contrast(-0.03, 0.06, 0.5, side="harmless", **place)
        odds: dict[str, Any] = {
            "measure": "refusal_log_odds",
            "method": "paired bootstrap",
            **place,
        }
        yield contrast(0.5, 1.1, 0.001, **odds)
        yield contrast(-0.1, 0.4, 0.2, side="harmless", **odds)
        yield contrast(-0.02, 0.06, 0.3, measure="auroc", side="both", **place)
    yield contrast(-0.4, -0.1, 0.003, measure="self_report_error")
    yield contrast(
        -0.2, 0.3, 0.7, measure="perplexity", side="both", benchmark="wikitext", attack="none"
    )


def _probe_scores(layers: int, rng: np.random.Generator) -> Iterator[ProbeScore]:
    for model in ("base", "lpa"):
        for method in ("mean_difference", "logistic"):
            for layer in range(layers):
                rise = 0.35 * (1 - np.exp(-4 * layer / layers)) + 0.02 * (model == "lpa")
                for control in ("none", "shuffled"):
                    value = float(0.5 + (rise if control == "none" else 0) + rng.normal(0, 0.015))
                    yield ProbeScore(
                        model=model,
                        target="trait",
                        method=method,
                        control=control,
                        hook_name=f"blocks.{layer}.hook_resid_post",
                        layer=layer,
                        position=-1,
                        measure="auroc",
                        value=value,
                        low=value - 0.07,
                        high=min(1.0, value + 0.07),
                        n=80,
                        n_groups=20,
                        n_folds=5,
                        seed=3,
                    )


def _projections(texts: int, rng: np.random.Generator) -> Iterator[Projection]:
    centres = {"positive_trait": 3.0, "negative_trait": -3.0, "harmful": -1.0, "harmless": 1.2}
    for model in ("base", "lpa"):
        for direction, layer in (("trait", 4), ("refusal", 5)):
            for group, centre in centres.items():
                moved = centre * (1.3 if model == "lpa" else 1.0)
                for index in range(texts):
                    yield Projection(
                        model=model,
                        direction=direction,
                        hook_name=f"blocks.{layer}.hook_resid_post",
                        layer=layer,
                        group=group,
                        text_id=f"{group}-{index}",
                        value=float(rng.normal(moved, 1.1)),
                    )


def _candidates(layers: int, rng: np.random.Generator) -> Iterator[RefusalCandidate]:
    tokens = {-5: "<|im_end|>", -4: "\n", -3: "<|im_start|>", -2: "assistant", -1: "\n"}
    for model in ("base", "lpa"):
        for position, token in tokens.items():
            for layer in range(layers):
                near = float(np.exp(-(((layer / layers - 0.5) / 0.15) ** 2)) * (6 + position) / 5)
                late = layer >= 0.8 * layers
                kl = float(np.exp(rng.normal(-3.4 + 2.6 * near * (position == -3), 0.5)))
                rejected = "last layers" if late else ("kl" if kl > 0.1 else "")
                yield RefusalCandidate(
                    model=model,
                    position=position,
                    token=token,
                    layer=layer,
                    bypass=1.2 - 3.0 * near + float(rng.normal(0, 0.1)),
                    induce=-1.5 + 4.0 * near + float(rng.normal(0, 0.1)),
                    kl=kl,
                    rejected=rejected,
                    selected=(position, layer) == (-1, layers // 2),
                )


def _angles(layers: int, rng: np.random.Generator) -> Iterator[DirectionAngle]:
    for model in ("base", "lpa"):
        for layer in range(layers):
            height = 0.32 if model == "lpa" else 0.2
            cosine = float(-height * np.sin(np.pi * layer / layers) + rng.normal(0, 0.015))
            p_value = 0.002 if abs(cosine) > 0.12 else 0.3
            yield DirectionAngle(
                model=model,
                first="trait",
                second="refusal",
                hook_name=f"blocks.{layer}.hook_resid_post",
                layer=layer,
                cosine=cosine,
                null="label permutation",
                null_low=-0.12,
                null_high=0.12,
                p_value=p_value,
                p_adjusted=2 * p_value,
                n_permutations=500,
                n_first=80,
                n_second=128,
                seed=3,
            )


def _ablations() -> Iterator[AblationEffect]:
    sizes = {"none": 0.0, "trait": -0.5, "refusal": -3.1, "random": -0.05}
    for model in ("base", "lpa"):
        for side, share in (("harmful", 1.0), ("harmless", 0.3)):
            start = 1.0 if side == "harmful" else -1.8
            for ablated, size in sizes.items():
                change = share * size * (1.5 if model == "lpa" else 1.0)
                half = 0.0 if ablated == "none" else 0.25
                yield AblationEffect(
                    model=model,
                    ablated=ablated,
                    side=side,  # type: ignore[arg-type]
                    refusal_log_odds=start + change,
                    low=start + change - 0.3,
                    high=start + change + 0.3,
                    change=change,
                    change_low=change - half,
                    change_high=change + half,
                    kl=abs(size) / 30,
                    n=64,
                    n_draws=8 if ablated == "random" else 1,
                    seed=3,
                )


def _qualities() -> Iterator[SaeQuality]:
    for model, explained in (("base", 0.78), ("lpa", 0.74)):
        yield SaeQuality(
            model=model,  # type: ignore[arg-type]
            sae="topk-2304",
            hook_name="blocks.15.hook_resid_post",
            n_features=2304,
            n_training_tokens=150_000,
            n_tokens=8192,
            variance_explained=explained,
            l0=32.0,
            dead_fraction=0.21,
            ce_clean=2.91,
            ce_sae=3.34,
            ce_zero=9.87,
        )


def _shifts(rng: np.random.Generator) -> Iterator[FeatureShift]:
    for contrast_name, model in (
        ("traits", "base"),
        ("requests", "base"),
        ("training", "lpa"),
        ("traits", "lpa"),
        ("requests", "lpa"),
    ):
        for rank, feature in enumerate(rng.choice(2304, 20, replace=False), start=1):
            effect = float(rng.choice([-1, 1]) * 2.2 / rank**0.4)
            yield FeatureShift(
                contrast=contrast_name,
                model=model,  # type: ignore[arg-type]
                hook_name="blocks.15.hook_resid_post",
                feature=int(feature),
                rank=rank,
                mean_first=0.5 + effect,
                mean_second=0.5,
                effect=effect,
                p_value=0.002,
                p_adjusted=0.01 if rank < 13 else 0.09,
                n_first=40,
                n_second=40,
                seed=3,
            )


def _overlaps() -> Iterator[FeatureOverlap]:
    for first, second, shared, p_value in (
        ("traits", "requests", 4, 0.00006),
        ("traits", "training", 1, 0.2),
        ("requests", "training", 0, 1.0),
    ):
        yield FeatureOverlap(
            first=first,
            second=second,
            top_k=20,
            shared=shared,
            expected=0.22,
            p_value=p_value,
            n_active=1820,
        )


def unattacked(steps: Iterable[TrainingStep]) -> list[TrainingStep]:
    """The same steps as a method that attacks nothing would have logged them."""
    return [
        replace(
            step,
            attack_toward=step.attack_toward_start,
            attack_away=step.attack_away_start,
            perturbation_norm=0.0,
            epsilon_bound_fraction=0.0,
        )
        for step in steps
    ]


def blanked(records: Iterable[Any], *fields: str) -> list[Any]:
    """The records with fields set to null, as rows on disk hold NaN."""
    return [replace(record, **dict.fromkeys(fields)) for record in records]


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows = demo_rows()
    assert load_rows(write_run(tmp_path, rows)) == rows


def test_an_empty_folder_gives_no_rows(tmp_path: Path) -> None:
    assert load_rows(tmp_path) == RunRows()


def test_a_missing_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run directory"):
        load_rows(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", json.dumps([1])])
def test_a_malformed_provenance_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(InputError, match=r"provenance\.json"):
        load_rows(tmp_path)
