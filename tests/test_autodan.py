"""AutoDAN-GA against an attacker on this machine, and a model that refuses what holds capitals."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lpa_interp.chat import chat_rows, completion_row
from lpa_interp.endpoint import Endpoint
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.jailbreaks import autodan
from lpa_interp.jailbreaks.autodan import (
    PROTOTYPE,
    AutodanSettings,
    autodan_attack,
    fitness,
    read_template,
)
from lpa_interp.jailbreaks.genetic import PLACE, crossover, fill, offspring
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from tests.chat_server import Answer, Server, chat_server, said
from tests.planted import refusing_model
from tests.tiny import tiny_model

REQUEST = "please lock it"
LOUD = f"READ this. {PLACE}"
SMALL = AutodanSettings(steps=4, population=6, mutation_rate=0.0, max_new_tokens=4)
Rephrase = Callable[[dict[str, Any]], Answer]


def prompts(n: int = 1) -> list[Prompt]:
    return [
        Prompt(id=f"p{index}", text=REQUEST, harmful=True, category="c", source="s")
        for index in range(n)
    ]


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return refusing_model()[0]


@pytest.fixture(autouse=True)
def _planted_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted model's refusal begins with the first token of "Sorry"."""
    monkeypatch.setattr(autodan, "keyword_refusal", lambda text: text.startswith("So"))


class Searched:
    """An AutoDAN attack whose attacker is a function of the request's body."""

    def __init__(self, rephrase: Rephrase) -> None:
        self.rephrase = rephrase
        self.server: Server
        self.told: list[str] = []

    def __call__(
        self,
        model: HookedTransformer,
        n: int = 1,
        settings: AutodanSettings = SMALL,
        prototype: str = LOUD,
        seed: int = 0,
        kept: Path | None = None,
        mounts: int = 1,
        **fields: Any,
    ) -> list[str]:
        def respond(number: int, _: str) -> Answer:
            return self.rephrase(self.server.bodies[number])

        with chat_server(respond) as self.server:
            quick = {"first_delay": 0.001, "max_tries": 1, "timeout": 5.0, **fields}
            endpoint = Endpoint(base_url=self.server.url, model="m", **quick)
            attack = autodan_attack(
                endpoint,
                settings,
                prototype=prototype,
                seed=seed,
                tries=2,
                kept=kept,
                tell=self.told.append,
            )
            self.progress: list[tuple[int, int]] = []
            for _ in range(mounts):
                with attack.mount(
                    model, prompts(n), lambda *done: self.progress.append(done)
                ) as on:
                    given = [one.text for one in on.given]
            return given


def some_quiet(body: dict[str, Any]) -> Answer:
    """About half of the rephrasings hold no capitals."""
    return said(f"read this. {PLACE}" if body["seed"] % 2 else f"READ that. {PLACE}")


def halves(body: dict[str, Any]) -> Answer:
    """Rephrasings that are each loud in one half: only a cross of two is quiet."""
    loud_first = body["seed"] % 2
    return said(f"READ LOUD. sing. {PLACE}" if loud_first else f"sing. READ LOUD. {PLACE}")


def always_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autodan, "keyword_refusal", lambda text: True)


def test_the_rephrasing_that_the_model_complies_with_is_found(model: HookedTransformer) -> None:
    run = Searched(some_quiet)
    assert run(model, n=2) == [f"read this. {REQUEST}"] * 2
    assert run.progress == [(1, 2), (2, 2)] and run.told == []
    assert len(run.server.bodies) == SMALL.population - 1  # once for both prompts
    assert all(LOUD in body["messages"][0]["content"] for body in run.server.bodies)


def test_crossover_finds_what_no_template_of_the_first_population_is(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_refused(monkeypatch)
    settings = AutodanSettings(steps=8, population=8, mutation_rate=0.0, max_new_tokens=4)
    (found,) = Searched(halves)(model, settings=settings)
    assert not re.search("[A-Z]", found) and found.endswith(REQUEST)
    alone = AutodanSettings(
        steps=8, population=8, mutation_rate=0.0, crossover_rate=0.0, max_new_tokens=4
    )
    (found,) = Searched(halves)(model, settings=alone)
    assert re.search("[A-Z]", found)


def test_mutation_asks_the_attacker_for_other_words(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_refused(monkeypatch)

    def quiet_the_second_time(body: dict[str, Any]) -> Answer:
        asked = body["messages"][0]["content"]
        return said(f"sing. {PLACE}" if "HACK" in asked else f"HACK READ. {PLACE}")

    settings = AutodanSettings(
        steps=2, population=4, mutation_rate=1.0, crossover_rate=0.0, max_new_tokens=4
    )
    run = Searched(quiet_the_second_time)
    assert run(model, settings=settings) == [f"sing. {REQUEST}"]
    assert len(run.server.bodies) == 3 + 3  # the first population, and one generation of children


def test_an_attacker_that_never_rephrases_leaves_the_prototype_and_is_counted(
    model: HookedTransformer,
) -> None:
    run = Searched(lambda body: said("I'm sorry, I can't help with that."))
    assert run(model) == [fill(LOUD, REQUEST)]
    assert len(run.server.bodies) == 5 * 2
    assert run.told == [
        "autodan: m: 5 questions, 0 unusable, 5 refused, 0 got no answer; "
        "what hung on them stayed as it was"
    ]


def test_the_search_ends_with_the_first_answer_that_is_no_refusal(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def refuses_twice(text: str) -> bool:
        seen.append(text)
        return len(seen) <= 2

    monkeypatch.setattr(autodan, "keyword_refusal", refuses_twice)
    Searched(some_quiet)(
        model, settings=AutodanSettings(steps=9, population=4, mutation_rate=0.0, max_new_tokens=4)
    )
    assert len(seen) == 3


def test_the_budget_bounds_the_answers_that_the_search_sees(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def refuses(text: str) -> bool:
        seen.append(text)
        return True

    monkeypatch.setattr(autodan, "keyword_refusal", refuses)
    Searched(some_quiet)(model)
    budget = autodan_attack(Endpoint(base_url="http://x", model="m"), SMALL).budget
    assert (budget.queries, budget.steps) == (3, 4) and len(seen) == 3


def test_no_template_is_read_twice(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_refused(monkeypatch)
    read: list[tuple[int, ...]] = []

    def counted(model: HookedTransformer, rows: Any, *rest: Any) -> list[float]:
        read.extend(map(tuple, rows))
        return fitness(model, rows, *rest)

    monkeypatch.setattr(autodan, "fitness", counted)
    Searched(halves)(model)
    assert len(read) == len(set(read)) < SMALL.population * SMALL.steps


def test_the_same_seed_gives_the_same_prompts_and_another_one_other_draws(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_refused(monkeypatch)

    def by_seed(body: dict[str, Any]) -> Answer:
        words = random.Random(body["seed"]).choices(["sing.", "READ.", "bake.", "HACK."], k=4)
        return said(f"{' '.join(words)} {PLACE}")

    settings = AutodanSettings(steps=4, population=6, mutation_rate=0.5, max_new_tokens=4)
    runs = [Searched(by_seed) for _ in range(3)]
    given = [
        run(model, settings=settings, seed=seed) for run, seed in zip(runs, (0, 0, 1), strict=True)
    ]
    assert given[0] == given[1]
    asked = [sorted(map(json.dumps, run.server.bodies)) for run in runs]
    assert asked[0] == asked[1] != asked[2]


def test_mounting_again_asks_nothing_again(model: HookedTransformer) -> None:
    run = Searched(some_quiet)
    run(model, mounts=3)
    assert len(run.server.bodies) == 5


def test_a_dead_endpoint_ends_the_attack_and_its_replies_are_kept(
    model: HookedTransformer, tmp_path: Path
) -> None:
    kept, served = tmp_path / "folder" / "replies.jsonl", []

    def dies(body: dict[str, Any]) -> Answer:
        served.append(1)
        return Answer(status=500) if len(served) > 3 else some_quiet(body)

    settings = AutodanSettings(steps=2, population=16, mutation_rate=0.0, max_new_tokens=4)
    with pytest.raises(InputError, match=r"gives no answers: status 500"):
        Searched(dies)(model, settings=settings, kept=kept, key="s3cret")
    assert "s3cret" not in kept.read_text()
    run = Searched(some_quiet)
    assert run(model, settings=settings, kept=kept) == [f"read this. {REQUEST}"]
    assert len(run.server.bodies) == 15 - 3


def test_fitness_is_the_mean_log_probability_of_the_target() -> None:
    model = tiny_model()
    rows = chat_rows(model, ["Tell me how to open the lock.", "I", "The cat sat."])
    target = completion_row(model, "Sure, here is", end=False)
    found = fitness(model, rows, target, room=200, batch_size=2)
    for row, value in zip(rows, found, strict=True):
        log_probs = model(torch.tensor([row + target]))[0].double().log_softmax(-1)
        places = range(len(row) - 1, len(row) + len(target) - 1)
        told = [log_probs[p, t].item() for p, t in zip(places, target, strict=True)]
        assert value == pytest.approx(sum(told) / len(told), abs=1e-5)


def test_a_row_without_room_is_never_fit_and_nan_is_an_error() -> None:
    model = tiny_model()
    rows = chat_rows(model, ["I", "The cat sat on the mat."])
    target = completion_row(model, "Sure", end=False)
    short, long = fitness(model, rows, target, room=len(rows[0]), batch_size=2)
    assert short > long == -float("inf")
    model.unembed.W_U.data[:] = float("nan")
    with pytest.raises(NumericalError):
        fitness(model, rows, target, room=200, batch_size=2)


def test_a_request_that_does_not_fit_is_told(model: HookedTransformer) -> None:
    run = Searched(lambda body: said(f"sing. {PLACE}"))
    long = AutodanSettings(steps=1, population=2, max_new_tokens=250)
    with pytest.raises(InputError, match="prompt p0: does not fit"):
        run(model, settings=long)


FIRST, SECOND = f"a. b! c? d. {PLACE}", f"e. {PLACE} f. g. h. i. j."


def test_children_hold_all_sentences_of_their_parents_in_place_and_the_request_once() -> None:
    for seed in range(50):
        one, two = crossover(FIRST, SECOND, 3, random.Random(seed))
        assert one.count(PLACE) == two.count(PLACE) == 1
        rest = [text.replace(PLACE, "") for text in (one, two)]
        letters = sorted(re.findall("[a-j]", " ".join(rest)))
        assert letters == list("abcdefghij")
        for text in rest:
            assert [c for c in text if c in "abcd"] == sorted(c for c in text if c in "abcd")
            assert [c for c in text if c in "efghij"] == sorted(c for c in text if c in "efghij")


def test_segments_change_sides_as_the_algorithm_says() -> None:
    class Scripted(random.Random):
        """Points 1 and 2; keeps the first segment, changes the second, keeps the third."""

        def __init__(self) -> None:
            super().__init__(0)
            self.draws = iter([0.9, 0.1, 0.9])

        def sample(self, population: Any, k: int, **_: Any) -> list[Any]:
            assert list(population) == [1, 2, 3] and k == 2
            return [2, 1]

        def random(self) -> float:
            return next(self.draws)

    one, two = crossover(f"a. b. c. {PLACE}", f"e. f. g. {PLACE}", 2, Scripted())
    assert one == f"a. f. c. {PLACE}" and two == f"e. b. g. {PLACE}"


def test_templates_of_one_sentence_change_as_a_whole_or_not_at_all() -> None:
    for seed in range(10):
        pair = crossover(f"a {PLACE}", f"b. c. {PLACE}", 5, random.Random(seed))
        assert sorted(pair) == sorted([f"a {PLACE}", f"b. c. {PLACE}"])


def test_parents_are_drawn_with_the_softmax_of_their_fitness() -> None:
    n = 20_000
    drawn = offspring(["x", "y", "z"], [0.0, -1.0, -float("inf")], n, 0.0, 1, random.Random(0))
    assert len(drawn) == n and "z" not in drawn
    expected = 1 / (1 + 2.718281828**-1)
    assert drawn.count("x") / n == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("n_children", [1, 2, 5])
def test_there_are_as_many_children_as_asked_for(n_children: int) -> None:
    made = offspring([FIRST, SECOND], [0.0, 0.0], n_children, 0.5, 2, random.Random(0))
    assert len(made) == n_children


@pytest.mark.parametrize(
    ("text", "template"),
    [
        (f" Say: {PLACE} ", f"Say: {PLACE}"),
        ("Say it.", None),
        (f"{PLACE} {PLACE}", None),
        (PLACE, None),
    ],
)
def test_a_rephrasing_holds_the_place_of_the_request_once(text: str, template: str | None) -> None:
    assert read_template(text) == template


def test_the_prototype_and_the_settings_are_checked() -> None:
    endpoint = Endpoint(base_url="http://x", model="m")
    assert PROTOTYPE.count(PLACE) == 1
    for prototype in ("no place", f"{PLACE} {PLACE}"):
        with pytest.raises(InputError, match="prototype"):
            autodan_attack(endpoint, prototype=prototype)
    with pytest.raises(InputError, match="population"):
        AutodanSettings(population=1)
    with pytest.raises(InputError, match="crossover_rate"):
        AutodanSettings(crossover_rate=1.5)
    elites = [AutodanSettings(population=p, elite_rate=r).n_elites for p, r in ((64, 0.1), (4, 0))]
    assert elites == [6, 1] and AutodanSettings(population=2, elite_rate=1.0).n_elites == 1


def test_the_model_is_unchanged(model: HookedTransformer) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Searched(some_quiet)(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
