"""The report: one closed file whose claims follow the intervals."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from figures import RunRows, write_report
from figures.findings import (
    ablation_sentences,
    angle_sentences,
    probe_sentences,
    sae_sentences,
)
from figures.gallery import PICTURES
from figures.method import method_name
from figures.tables import site_table
from figures.training_findings import attack_sentence, epsilon_sentence, harm_sentences
from figures.verdict import Finding, direction, disagreement, findings, headline
from lpa_interp.errors import InputError
from lpa_interp.runs import write_json
from tests.test_figures_rows import (
    PROVENANCE,
    blanked,
    contrast,
    demo_rows,
    demo_run,
    unattacked,
    write_run,
)

TIE = "\N{NO-BREAK SPACE}"


class Links(HTMLParser):
    """Collects tags and every attribute that could load or lead somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loaded: list[str] = []
        self.anchors: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster") and value:
                (self.anchors if tag == "a" else self.loaded).append(value)
            assert not name.startswith("on")
        if tag == "img":
            self.images.append(dict(attrs))


@pytest.fixture(scope="module")
def run() -> Path:
    return demo_run()


@pytest.fixture(scope="module")
def report(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def parsed(report: str) -> Links:
    links = Links()
    links.feed(report)
    return links


def text_of(rows: RunRows, folder: Path) -> tuple[str, str]:
    """Report and model card of the rows."""
    write_report(write_run(folder, rows))
    names = ("report.html", "README.md")
    return tuple((folder / n).read_text(encoding="utf-8") for n in names)  # type: ignore[return-value]


def ask(*contrasts: Any) -> list[Finding]:
    return findings(RunRows(contrasts=list(contrasts)))


def test_the_report_loads_nothing_and_runs_nothing(report: str) -> None:
    links = parsed(report)
    assert not links.tags & {"script", "link", "iframe", "object", "embed", "form"}
    assert all(source.startswith("data:image/png;base64,") for source in links.loaded)
    outside = [a for a in links.anchors if not a.startswith(("#", "figures/"))]
    assert outside and all(a.startswith("https://arxiv.org/abs/") for a in outside)
    assert "@import" not in report and "url(" not in report


def test_every_picture_is_embedded_with_alt_text_and_its_table_linked(
    run: Path, report: str
) -> None:
    links = parsed(report)
    assert len(links.images) == len(PICTURES)
    assert all(image["alt"] for image in links.images)
    for picture in PICTURES:
        assert f"figures/{picture.name}.csv" in links.anchors
        assert (run / "figures" / f"{picture.name}.csv").exists()


def test_links_inside_the_report_lead_somewhere(report: str) -> None:
    targets = {a[1:] for a in parsed(report).anchors if a.startswith("#")}
    assert targets <= set(re.findall(r'id="([^"]+)"', report))


def test_an_empty_run_gives_a_report_that_says_what_is_absent(tmp_path: Path) -> None:
    report, card = text_of(RunRows(), tmp_path)
    for picture in PICTURES:
        for source in picture.sources:
            assert source in report and source in card
    assert "gives no verdict" in report and "gives no verdict" in card
    assert not parsed(report).images


def test_only_absent_pictures_are_called_absent(tmp_path: Path) -> None:
    report, _ = text_of(RunRows(training=demo_rows().training), tmp_path)
    called = {p.name for p in PICTURES if f"Not drawn: <b>{p.title}</b>" in report}
    assert called == {p.name for p in PICTURES} - {"training_curves"}


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    origin = {
        **PROVENANCE,
        "study_name": evil,
        "method": evil,
        "method_summary": evil,
        "trait_source": evil,
        "model": f'"\n---\n{evil}',
        "skipped": [[evil, evil], evil],
        "notes": [evil],
        "versions": {evil: evil},
    }
    scores = [replace(score, benchmark=evil) for score in demo_rows().scores[:3]]
    report, card = text_of(RunRows(scores=scores, provenance=origin, study=evil), tmp_path)
    assert "script" not in parsed(report).tags
    assert "&lt;script&gt;alert(1)" in report
    assert "<script" not in card.split("---\n", 2)[2]
    assert card.count("\n---\n") == 1


def test_null_values_give_a_report(tmp_path: Path) -> None:
    rows = demo_rows(layers=3, texts=3)
    blank = RunRows(
        training=blanked(
            rows.training,
            "attack_toward_after",
            "epsilon_bound_fraction",
            "perturbation_norm",
            "retain",
        ),
        sites=blanked(rows.sites, "radius", "mean_norm", "bound_fraction"),
        harm_rates=blanked([replace(rows.harm_rates[0], n=0)], "rate", "low", "high"),
        scores=blanked(rows.scores[:9], "value", "low", "high"),
        contrasts=blanked(rows.contrasts, "difference", "low", "high", "p_value"),
        probe_scores=blanked(rows.probe_scores, "value", "low", "high"),
        projections=blanked(rows.projections, "value"),
        candidates=blanked(rows.candidates, "bypass", "induce", "kl"),
        angles=blanked(rows.angles, "cosine", "null_low", "null_high", "p_adjusted"),
        trait_angles=blanked(rows.trait_angles, "cosine", "null_low", "low", "high", "p_adjusted"),
        stability=blanked(rows.stability, "cosine", "low", "high", "null_low", "p_adjusted"),
        subspace_angles=blanked(
            rows.subspace_angles, "overlap", "largest_cosine", "null_high", "p_adjusted"
        ),
        ablations=blanked(rows.ablations, "change", "change_low", "change_high", "kl"),
        transfer=blanked(rows.transfer, "auroc", "low", "high", "p_adjusted"),
        activation_shifts=blanked(rows.activation_shifts, "value", "low", "high", "p_adjusted"),
        weight_alignments=blanked(rows.weight_alignments, "share", "null_low", "p_adjusted"),
        mediated_shares=blanked(rows.mediated_shares, "gain", "drop", "share", "net_share"),
        doses=blanked(rows.doses, "refusal_log_odds", "low", "high", "kl"),
        patches=blanked(rows.patches, "recovered", "recovered_low", "recovered_high"),
        shifts=blanked(rows.shifts, "effect", "p_adjusted"),
        qualities=blanked(rows.qualities, "variance_explained", "dead_fraction", "ce_zero"),
        overlaps=blanked(rows.overlaps, "expected", "p_value"),
        stages=blanked(rows.stages, "seconds", "peak_memory_mib"),
        provenance=dict.fromkeys(PROVENANCE),
    )
    report, _ = text_of(blank, tmp_path)
    assert len(parsed(report).images) == len(PICTURES)
    assert "not available" in report
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", report))


def test_a_malformed_row_is_an_input_error_and_no_report(tmp_path: Path) -> None:
    (tmp_path / "stages.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"stages\.jsonl:1"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stages.jsonl"]


def test_completions_never_reach_the_report(tmp_path: Path) -> None:
    rows = demo_rows()
    assert all("FORBIDDEN" in row.text for row in rows.watched)
    folder = write_run(tmp_path, RunRows(scores=rows.scores, watched=rows.watched))
    (folder / "behaviour" / "completions.jsonl").write_text('{"text": "FORBIDDEN"}\n')
    assert write_report(folder) == folder / "report.html"
    for name in ("report.html", "README.md"):
        assert "FORBIDDEN" not in (folder / name).read_text(encoding="utf-8")


def test_a_significant_rise_is_told_with_numbers_interval_and_n() -> None:
    found = ask(contrast(0.06, 0.22, 0.0004))
    assert found[0].state == "rose"
    assert found[0].tone == "good"
    assert "+14.0 points (95 % interval +6.0 to +22.0, p = 0.0004, n = 90)" in found[0].evidence[0]
    assert headline(found).startswith("After LPA training the model refused harmful requests more")


def test_a_null_is_no_detectable_change() -> None:
    found = ask(contrast(-0.02, 0.10, 0.2))
    assert found[0].state == "none"
    assert found[0].answer == "No detectable change in the one comparison made."
    assert "interval includes 0 (\N{MINUS SIGN}2.0 to +10.0)" in found[0].evidence[0]
    assert headline(found).startswith("No detectable change")


def test_a_drop_is_a_drop() -> None:
    found = ask(contrast(-0.3, -0.1, 0.001))
    assert (found[0].state, found[0].tone) == ("fell", "bad")
    assert "less often" in headline(found)


def test_an_interval_off_zero_with_a_large_p_value_is_not_settled() -> None:
    assert direction(contrast(0.01, 0.2, 0.2)) == "suggestive"
    assert direction(contrast(0.01, 0.2, None)) == "suggestive"  # type: ignore[arg-type]


def test_a_small_p_value_does_not_outvote_an_interval_with_zero() -> None:
    assert direction(contrast(-0.01, 0.2, 0.001)) == "none"


def test_the_more_comparisons_the_smaller_p_must_be() -> None:
    test = contrast(0.01, 0.14, 0.04)
    assert direction(test, family=1) == "rose"
    assert direction(test, family=4) == "suggestive"
    found = ask(test, replace(test, attack="prefill"))
    assert found[0].state == "suggestive"
    assert "not settled" in headline(found)


def test_a_rise_on_both_sides_is_called_unspecific() -> None:
    found = ask(contrast(0.1, 0.2, 0.001), contrast(0.1, 0.2, 0.001, side="harmless"))
    assert found[1].tone == "bad"
    assert headline(found).endswith("The rise is not specific to harm.")


def test_opposite_changes_are_mixed() -> None:
    found = ask(contrast(0.1, 0.2, 0.001), contrast(-0.2, -0.1, 0.001, attack="prefill"))
    assert found[0].state == "mixed"


def test_other_pairs_of_models_do_not_answer_for_base_and_lpa() -> None:
    assert ask(contrast(0.1, 0.2, 0.001, first="source"))[0].state == "untested"


def test_without_a_paired_test_values_are_told_and_nothing_is_claimed() -> None:
    found = findings(RunRows(scores=demo_rows().scores))
    assert {finding.state for finding in found} == {"untested"}
    assert "no claim" in found[0].answer and "73.1 %" in found[0].evidence[0]


def test_the_keyword_judge_says_that_it_is_weak(report: str) -> None:
    assert "keyword (weak)" in report and "The keyword judge is weak" in report


def test_an_organism_is_named_in_report_and_card(tmp_path: Path, run: Path, report: str) -> None:
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "The base is an organism" in report and "The base is an organism" in card
    other, plain_card = text_of(RunRows(provenance={**PROVENANCE, "organism": False}), tmp_path)
    assert "The base is an organism" not in other + plain_card


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "Epsilon did not bind"), (0.3, "for some"), (0.9, "for most")],
)
def test_the_report_says_whether_epsilon_was_binding(share: float, words: str) -> None:
    steps = [replace(step, epsilon_bound_fraction=share) for step in demo_rows().training]
    assert words in epsilon_sentence(RunRows(training=steps))


def test_sites_at_the_bound_are_named() -> None:
    told = epsilon_sentence(demo_rows())
    assert "At step 10 it was binding for more than half at 2 of 5 sites (hook_embed and" in told
    assert "for none at 1 (blocks.28.hook_mlp_out)." in told
    assert "share of attacked tokens within 1 %" in told


def test_a_method_that_perturbs_nothing_has_no_epsilon_to_bind() -> None:
    steps = unattacked(demo_rows().training)
    told = epsilon_sentence(RunRows(training=steps, provenance={"method": "sft"}))
    assert told == "The method (sft) adds nothing that epsilon bounds, so it could not bind."
    told = epsilon_sentence(RunRows(training=steps, study='method = "dpo"\n'))
    assert told.startswith("The method (dpo) adds nothing")
    told = attack_sentence(RunRows(training=steps))
    assert told.startswith("Nothing was done to the activations.") and "under it" not in told


def test_an_attack_in_a_subspace_is_said_to_be_in_it() -> None:
    study = '[train]\nsubspace = "d.safetensors"\nsubspace_names = ["trait"]\n'
    told = epsilon_sentence(replace(demo_rows(), study=study))
    assert "kept inside the span of directions (names: trait)." in told
    assert "span of directions" not in epsilon_sentence(demo_rows())


def test_the_attack_is_told_at_the_last_step_and_as_means_over_steps() -> None:
    steps = demo_rows().training[:2]
    values = [
        replace(s, attack_toward_start=2.0 + i, attack_toward=0.5, attack_toward_after=1.0 + i)
        for i, s in enumerate(steps)
    ]
    told = attack_sentence(RunRows(training=values[::-1]))  # whatever the order of the rows
    assert "at step 2, the last, in nats per token, with means over 2 steps in brackets" in told
    assert "undesired answer 3.000 [2.500] without the attack, 0.500 [0.500] under it" in told
    assert " and 2.000 [1.500] under the same attack after the update; away" in told


def test_no_harmful_completion_is_told_with_the_bound_that_remains() -> None:
    (told,) = harm_sentences(demo_rows())
    assert "0 of 23 completions that the attacked model gave" in told
    assert "0.0 to 14.3 %, 95 % Wilson interval; n = 12 statements; 3 steps watched" in told
    assert "6 to 13 tokens each; 1 undecided, left out)" in told
    assert "a weak judge" in told and told.endswith("so it is too narrow.")


def test_completions_that_no_judge_decided_are_not_called_harmless() -> None:
    (rate,) = demo_rows().harm_rates
    undecided = blanked([replace(rate, n=0, n_undecided=24)], "rate", "low", "high")
    (told,) = harm_sentences(RunRows(harm_rates=undecided))
    assert "0 of 24 completions" in told and "could be judged by the word list (no rate" in told


def test_the_control_without_an_attack_is_told_apart() -> None:
    (rate,) = demo_rows().harm_rates
    lines = harm_sentences(RunRows(harm_rates=[rate, replace(rate, attacked=False)]))
    assert "the attacked model" in lines[0] and "without an attack" in lines[1]


def test_without_harm_rates_the_report_says_that_it_does_not_know() -> None:
    rows = demo_rows()
    (told,) = harm_sentences(RunRows(watched=rows.watched))
    assert told == "24 completions were watched, but the run holds no harm rates, so none is told."
    (told,) = harm_sentences(RunRows(training=rows.training))
    assert "not known" in told
    assert harm_sentences(RunRows()) == []


def test_the_site_table_has_the_last_step_and_the_mean_over_steps() -> None:
    table = site_table(demo_rows())
    assert table is not None and table.head[-1] == "at the bound, step 10"
    first = dict(zip(table.head, table.lines[0], strict=True))
    assert first["hook point"] == ("hook_embed", "")
    assert first["radius"] == ("0.500", "") and first["activation norm"] == ("2.50", "")
    assert first["mean norm"] == ("0.500", "100.0 % of the radius")
    assert first["at the bound, step 10"] == ("100.0 %", "91.0 % over 10 steps")
    assert site_table(RunRows()) is None


SFT = {
    **PROVENANCE,
    "method": "sft",
    "method_summary": "cross entropy on the desired answers",
    "method_source": "control of this project",
}


def test_another_method_is_named_in_report_card_and_headline(tmp_path: Path) -> None:
    found = [contrast(0.06, 0.22, 0.0004)]
    for text in text_of(RunRows(provenance=SFT, contrasts=found), tmp_path):
        plain = text.replace(TIE, " ").replace("\\", "")
        assert "After training (sft) the model refused harmful requests more" in plain
        assert "sft: cross entropy on the desired answers (control of this project)" in plain
        assert "the trained model is labelled lpa in pictures and tables" in plain
        assert "trained by Latent Personality Alignment" not in plain


def test_lpa_is_named_with_its_source_and_an_older_run_names_no_method(
    tmp_path: Path, report: str
) -> None:
    assert "lpa: latent adversarial training on personality statements (arXiv 2605.08496)" in report
    assert "labelled lpa" not in report
    older = {key: value for key, value in PROVENANCE.items() if not key.startswith("method")}
    rows = RunRows(provenance=older, contrasts=[contrast(0.06, 0.22, 0.0004)])
    assert method_name(rows) == ""
    for text in text_of(rows, tmp_path):
        assert "Method:" not in text and "After LPA training" in text


@pytest.mark.parametrize("source", ["requests", "advbench", "harmbench"])
def test_training_on_requests_is_not_called_free_of_them(tmp_path: Path, source: str) -> None:
    origin = {**SFT, "method": "lat-requests", "trait_source": source}
    report, card = text_of(RunRows(provenance=origin), tmp_path)
    assert "Harmful requests were trained on" in card and "no test of transfer" in report
    assert "no harmful request" not in card and "without one harmful" not in report


def test_an_ablation_counts_only_when_clear_of_the_random_control() -> None:
    rows = demo_rows().ablations
    told = "\n".join(ablation_sentences(RunRows(ablations=rows)))
    assert "lpa, harmful requests, trait direction" in told and ", clear of the control" in told
    assert "base, harmless requests, trait direction" in told and "no detectable change" in told
    alone = [row for row in rows if row.ablated != "random"]
    assert "no random control" in "\n".join(ablation_sentences(RunRows(ablations=alone)))


def test_a_leaking_probe_is_called_leaking() -> None:
    scores = demo_rows().probe_scores
    assert all("above chance." in line for line in probe_sentences(RunRows(probe_scores=scores)))
    leaking = [replace(s, low=0.6) if s.control == "shuffled" else s for s in scores]
    assert "leaks" in probe_sentences(RunRows(probe_scores=leaking))[0]
    alone = [s for s in scores if s.control == "none"]
    assert "cannot be trusted" in probe_sentences(RunRows(probe_scores=alone))[0]


def test_angles_inside_the_null_are_not_claimed() -> None:
    angles = [replace(a, p_adjusted=0.5) for a in demo_rows().angles]
    assert "none differs detectably" in angle_sentences(RunRows(angles=angles))[0]


def test_overlap_is_more_than_chance_only_where_p_says_so() -> None:
    lines = sae_sentences(RunRows(overlaps=demo_rows().overlaps))
    assert "more than chance gives" in lines[0] and "not detectably" not in lines[0]
    assert "not detectably more" in lines[1]


def test_the_model_card_has_front_matter_numbers_and_both_ways_to_load(run: Path) -> None:
    card = (run / "README.md").read_text(encoding="utf-8")
    front = card.split("---\n")[1]
    assert 'base_model: "HuggingFaceTB/SmolLM2-135M-Instruct"' in front
    assert "library_name: peft" in front and "- lora" in front
    assert "PeftModel.from_pretrained" in card and "load_adapter(model" in card
    assert "| requests, direct | harmful |" in card and "n = 90" in card


@pytest.mark.parametrize(
    ("named", "expected"),
    [("org/model", "org/model"), ("/home/someone/cache", "HuggingFaceTB/SmolLM2-135M-Instruct")],
)
def test_the_card_names_the_adapters_base_but_no_local_folder(
    tmp_path: Path, named: str, expected: str
) -> None:
    write_json(tmp_path / "adapter" / "adapter_config.json", {"base_model_name_or_path": named})
    _, card = text_of(RunRows(provenance=PROVENANCE), tmp_path)
    assert f'base_model: "{expected}"' in card and "/home/someone" not in card


def test_numbers_stay_with_their_units(report: str) -> None:
    assert f"n{TIE}={TIE}90" in report


def test_configuration_provenance_and_costs_are_in_the_report(report: str) -> None:
    checks: list[Callable[[str], bool]] = [
        lambda text: "steps = 10" in text,
        lambda text: "0f3a9c1be2d4" in text,
        lambda text: "2 min 31 s" in text and "2954 MiB" in text,
        lambda text: "the file is not on this machine" in text,
        lambda text: "The judge met two empty completions." in text,
    ]
    assert all(check(report) for check in checks)


@pytest.mark.parametrize(("odds", "warned"), [(2.0, True), (-2.0, False)])
def test_measures_that_part_ways_are_pointed_out_and_agreeing_ones_are_not(
    odds: float, warned: bool
) -> None:
    clear = [
        contrast(-0.6, -0.4, 0.001, measure="refusal_rate"),
        contrast(odds - 0.1, odds + 0.1, 0.001, measure="refusal_log_odds"),
    ]
    found = findings(RunRows(contrasts=clear))
    assert ("part ways on harmful" in disagreement(found)) is warned


def test_an_ablation_that_breaks_the_model_is_called_damage() -> None:
    rows = demo_rows()
    trait = [replace(a, kl=5.0 if a.ablated == "trait" else 0.05) for a in rows.ablations]
    told = ablation_sentences(replace(rows, ablations=trait))
    # A change that is not there needs no such warning.
    claims = [line for line in told if "refusal, " in line]
    assert any("damage" in line for line in claims)
    assert all(("damage" in line) is ("trait direction" in line) for line in claims)
