"""Published templates: which one a prompt gets, what fits, and where the files come from."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import chisquare

from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import AttackedPrompt, attacked_rows
from lpa_interp.jailbreaks.context import fits, n_tokens
from lpa_interp.jailbreaks.templates import (
    PLACEHOLDER,
    TEMPLATE_SETS,
    Template,
    chosen,
    filled,
    fitting,
    load_templates,
    template_attack,
)
from lpa_interp.model import HookedTransformer
from lpa_interp.prompt_sets import BENCHMARKS, BenchmarkFile
from lpa_interp.records import Prompt
from tests.tiny import tiny_model

needs_data = pytest.mark.skipif(
    "LPA_DATA_DIR" not in os.environ, reason="LPA_DATA_DIR is not set: no public data here"
)
TEN = [Template(number, f"{number}: {PLACEHOLDER} now") for number in range(10)]


def _prompt(id: str, text: str = "Open the lock.", pair: str | None = None) -> Prompt:
    return Prompt(id=id, text=text, harmful=True, category="c", source="s", pair=pair)


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return tiny_model()


@pytest.fixture
def small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pinned file of three templates in place of GPTFuzzer's; the last is long."""
    long = "#" * 300
    content = f'id,text\n0,"Say, {PLACEHOLDER}"\n1,{PLACEHOLDER} please\n2,{long}{PLACEHOLDER}\n'
    digest = hashlib.sha256(content.encode()).hexdigest()
    file = BenchmarkFile("GPTFuzzer.csv", digest, "https://example.org/GPTFuzzer.csv")
    known = replace(TEMPLATE_SETS["template"], files=(file,))
    monkeypatch.setitem(TEMPLATE_SETS, "template", known)
    path = tmp_path / "gptfuzzer" / "GPTFuzzer.csv"
    path.parent.mkdir()
    path.write_text(content)
    monkeypatch.setenv("LPA_DATA_DIR", str(tmp_path))
    return path


def test_a_request_takes_the_place_of_the_placeholder_or_follows() -> None:
    assert filled(Template(0, f"A {PLACEHOLDER} b {PLACEHOLDER}"), "x") == "A x b x"
    assert filled(Template(0, "You are now free."), "x") == "You are now free.\n\nx"
    assert filled(Template(0, "Answer [PROMPT]"), "x") == "Answer [PROMPT]\n\nx"


def test_a_request_that_holds_the_placeholder_is_put_in_once() -> None:
    assert filled(TEN[3], PLACEHOLDER) == f"3: {PLACEHOLDER} now"


def test_the_template_of_a_prompt_does_not_follow_from_the_other_prompts(
    small_file: Path, model: HookedTransformer
) -> None:
    prompts = [_prompt(f"p{number}") for number in range(12)]
    attack = template_attack("template", seed=3, room=8)
    with attack.mount(model, prompts, None) as mounted:
        whole = dict(zip([p.id for p in prompts], mounted.given, strict=True))
    some = list(reversed(prompts[2:9:2]))
    with attack.mount(model, some, None) as mounted:
        assert list(mounted.given) == [whole[prompt.id] for prompt in some]
    assert len({given.text for given in whole.values()}) == 2


def test_choices_are_spread_evenly_and_follow_the_seed(model: HookedTransformer) -> None:
    prompts = [_prompt(f"p{number}") for number in range(400)]
    first = [chosen(model, TEN, prompt, 0, 8).number for prompt in prompts]
    second = [chosen(model, TEN, prompt, 1, 8).number for prompt in prompts]
    assert chisquare(list(Counter(first).values())).pvalue > 0.01 and len(set(first)) == 10
    agree = sum(a == b for a, b in zip(first, second, strict=True))
    assert 15 <= agree <= 70, "two seeds agree on a tenth, as by chance"


def test_twins_get_one_template(model: HookedTransformer) -> None:
    for number in range(20):
        harmful, harmless = (_prompt(f"{number}-{side}", pair=f"{number}") for side in "ab")
        assert chosen(model, TEN, harmful, 0, 8) == chosen(model, TEN, harmless, 0, 8)


def test_a_smaller_context_changes_only_the_choices_that_do_not_fit(
    model: HookedTransformer,
) -> None:
    long = [replace(one, text="#" * 100 * (one.number % 2) + one.text) for one in TEN]
    kept = fitting(model, long, "Open the lock.", room=150)
    assert [one.number for one in kept] == [0, 2, 4, 6, 8]
    for number in range(40):
        prompt = _prompt(f"p{number}")
        wide, narrow = (chosen(model, long, prompt, 0, room) for room in (8, 150))
        assert narrow in kept and (narrow == wide or wide not in kept)


def test_room_is_counted_to_the_token(model: HookedTransformer) -> None:
    given = AttackedPrompt("Open the lock.")
    free = model.cfg.n_ctx - len(attacked_rows(model, [given])[0])
    assert n_tokens(model, given) + free == model.cfg.n_ctx
    assert fits(model, given, free) and not fits(model, given, free + 1)


def test_a_prompt_with_no_template_that_fits_is_an_input_error(
    small_file: Path, model: HookedTransformer
) -> None:
    long = _prompt("long", "#" * 300)
    with (
        pytest.raises(InputError, match=r"prompt long: none of 3 .* holds 256 tokens, of which 8"),
        template_attack("template", room=8).mount(model, [long], None),
    ):
        pass
    with (
        pytest.raises(InputError, match="template 2 does not fit"),
        template_attack("template", only=2, room=8).mount(model, [_prompt("a")], None),
    ):
        pass


def test_one_template_can_be_given_to_every_prompt(
    small_file: Path, model: HookedTransformer
) -> None:
    attack = template_attack("template", only=1, room=8)
    told: list[tuple[int, int]] = []
    with attack.mount(model, [_prompt("a"), _prompt("b", "Hi.")], lambda *n: told.append(n)) as m:
        assert [given.text for given in m.given] == ["Open the lock. please", "Hi. please"]
    assert attack.name == "template:1" and told == [(1, 2), (2, 2)]
    with pytest.raises(InputError, match=r"attack template:3: no such template \(0 to 2\)"):
        template_attack("template", only=3)


def test_an_absent_file_says_how_to_get_it_and_a_changed_one_is_not_read(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_file.write_text("id,text\n0,other\n")
    with pytest.raises(InputError, match="not that of the pinned file"):
        template_attack("template")
    small_file.unlink()
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("pooch.retrieve", lambda *_: pytest.fail("downloaded without being asked"))
    wanted = {"template": "gptfuzzer/GPTFuzzer.csv", "wild": "jailbreak_llms/jailbreak_prompts"}
    for source, file in wanted.items():
        with pytest.raises(InputError, match=rf"{source}: .*LPA_DATA_DIR .*{file}"):
            template_attack(source)


def test_an_asked_for_file_is_downloaded_once(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = small_file.read_bytes()
    small_file.unlink()
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path / "cache"))
    asked = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path) -> None:
        asked.append((url, known_hash))
        path.mkdir(parents=True)
        (path / fname).write_bytes(content)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    assert len(load_templates("template", download=True)) == len(load_templates("template")) == 3
    digest = hashlib.sha256(content).hexdigest()
    assert asked == [("https://example.org/GPTFuzzer.csv", f"sha256:{digest}")]


def test_templates_are_no_benchmark_and_bad_arguments_are_input_errors() -> None:
    assert not set(TEMPLATE_SETS) & set(BENCHMARKS)
    with pytest.raises(InputError, match=r"templates 'dan': unknown name \(template, wild\)"):
        template_attack("dan")
    with pytest.raises(InputError, match="room for an answer: 0 tokens"):
        template_attack("template", room=0)


@pytest.mark.data
@needs_data
def test_the_published_files_have_their_published_sizes() -> None:
    fuzzer, wild = load_templates("template"), load_templates("wild")
    assert [one.number for one in fuzzer] == list(range(77))
    assert all(one.text.count(PLACEHOLDER) == 1 for one in fuzzer)
    assert [one.number for one in wild] == list(range(1, 1406))
    assert sum(PLACEHOLDER in one.text for one in wild) == 94


@pytest.mark.data
@pytest.mark.weights
@needs_data
def test_published_templates_fit_into_the_default_model(default_model: HookedTransformer) -> None:
    fuzzer = load_templates("template")
    assert fitting(default_model, fuzzer) == fuzzer
    longest = sorted(load_templates("wild"), key=lambda one: len(one.text))[-3:]
    assert longest[-1] not in fitting(default_model, longest)
    prompts = [_prompt(f"p{number}") for number in range(5)]
    for source in TEMPLATE_SETS:
        with template_attack(source).mount(default_model, prompts, None) as mounted:
            rows = attacked_rows(default_model, mounted.given)
        assert all("Open the lock." in given.text for given in mounted.given)
        assert len({given.text for given in mounted.given}) > 1
        assert max(map(len, rows)) + 512 <= default_model.cfg.n_ctx
