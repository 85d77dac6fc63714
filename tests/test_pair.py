"""PAIR against an attacker on this machine, and a model that refuses whatever holds capitals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lpa_interp.endpoint import Endpoint
from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import AttackedPrompt
from lpa_interp.jailbreaks.attacker import attacker_endpoint_from_environment
from lpa_interp.jailbreaks.pair import PairSettings, pair_attack
from lpa_interp.jailbreaks.pair_texts import read_proposal, read_rating
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from tests.chat_server import Answer, Server, chat_server, said
from tests.planted import refusing_model

REQUEST, TRIGGER = "please LOCK it", "please lock it"
SETTINGS = PairSettings(n_streams=2, n_iterations=3, max_new_tokens=4)
Propose = Callable[[dict[str, Any]], Answer]


def proposed(prompt: str) -> Answer:
    return said(json.dumps({"improvement": "", "prompt": prompt}))


def prompts(n: int = 1) -> list[Prompt]:
    return [
        Prompt(id=f"p{index}", text=REQUEST, harmful=True, category="c", source="s")
        for index in range(n)
    ]


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return refusing_model()[0]


class Attacked:
    """A PAIR attack whose server rates 1 what begins as the planted refusal does, else 10."""

    def __init__(self, propose: Propose, complied: str = "Rating: [[10]]") -> None:
        self.propose, self.complied = propose, complied
        self.server: Server
        self.told: list[str] = []

    def respond(self, number: int, text: str) -> Answer:
        answer = re.search(r"<answer>\n(.*)\n</answer>", text, re.DOTALL)
        if answer is None:
            return self.propose(self.server.bodies[number])
        return said("Rating: [[1]]" if answer[1].startswith("So") else self.complied)

    def __call__(
        self,
        model: HookedTransformer,
        n: int = 1,
        settings: PairSettings = SETTINGS,
        kept: Path | None = None,
        **fields: Any,
    ) -> list[str]:
        with chat_server(self.respond) as self.server:
            quick = {"first_delay": 0.001, "max_tries": 2, "timeout": 5.0, **fields}
            endpoint = Endpoint(base_url=self.server.url, model="m", **quick)
            attack = pair_attack(endpoint, settings, kept=kept, tries=3, tell=self.told.append)
            self.progress: list[tuple[int, int]] = []
            with attack.mount(model, prompts(n), lambda *done: self.progress.append(done)) as held:
                return [given.text for given in held.given]

    def asked(self, what: str) -> list[dict[str, Any]]:
        """The bodies of the attacker's or the judge's requests."""
        judges = what == "judge"
        return [
            b for b in self.server.bodies if ("<answer>" in b["messages"][-1]["content"]) == judges
        ]


def learns(body: dict[str, Any]) -> Answer:
    """Proposes what is refused, and the trigger once it has seen a low rating."""
    return proposed(TRIGGER if "Rating: 1" in body["messages"][-1]["content"] else "LOCK it NOW")


def test_a_prompt_that_the_model_complies_with_is_found_and_ends_the_search(
    model: HookedTransformer,
) -> None:
    run = Attacked(learns)
    assert run(model, n=2) == [TRIGGER, TRIGGER]
    assert run.progress == [(1, 2), (2, 2)] and run.told == []
    assert len(run.asked("attacker")) == len(run.asked("judge")) == 2 * 2 * 2


def test_without_a_better_prompt_the_whole_budget_is_spent_and_no_more(
    model: HookedTransformer,
) -> None:
    run = Attacked(lambda body: proposed("LOCK it NOW"))
    assert run(model) == ["LOCK it NOW"]
    budget = pair_attack(Endpoint(base_url="http://x", model="m"), SETTINGS).budget
    assert len(run.asked("judge")) == budget.queries == 6
    assert len(run.asked("attacker")) == 6


def test_an_attacker_that_never_proposes_leaves_the_request_and_is_counted(
    model: HookedTransformer,
) -> None:
    run = Attacked(lambda body: said("I'm sorry, I can't help with that."))
    assert run(model) == [REQUEST]
    assert len(run.asked("attacker")) == 2 * 3 * 3 and run.asked("judge") == []
    assert "6 questions, 0 unusable, 6 refused, 0 got no answer" in run.told[0]
    assert run.told[1] == "pair: 1 of 1 prompts had no rated proposal and are given as they stand"


def test_lost_questions_are_a_warning_where_nobody_listens(model: HookedTransformer) -> None:
    with chat_server(lambda *_: said("rubbish")) as server:
        attack = pair_attack(Endpoint(base_url=server.url, model="m"), SETTINGS, tries=1)
        with (
            pytest.warns(UserWarning, match="6 unusable"),
            pytest.warns(UserWarning, match="as they stand"),
            attack.mount(model, prompts(), None) as mounted,
        ):
            assert mounted.given == (AttackedPrompt(REQUEST),)


def test_the_best_rated_prompt_is_given_and_the_earliest_where_ratings_tie(
    model: HookedTransformer,
) -> None:
    def each_time_another(body: dict[str, Any]) -> Answer:
        turns = len(body["messages"])
        return proposed({2: "LOCK", 4: "a lock", 6: "the lock"}[turns])

    run = Attacked(each_time_another, complied="Rating: [[7]]")
    assert run(model) == ["a lock"]


def test_malformed_proposals_are_asked_again_and_a_stream_without_one_stays_as_it_was(
    model: HookedTransformer,
) -> None:
    seen: list[int] = []

    def broken_at_first(body: dict[str, Any]) -> Answer:
        seen.append(body["seed"])
        return said('{"prompt": "half') if len(seen) <= 3 else learns(body)

    settings = PairSettings(n_streams=1, n_iterations=3, max_new_tokens=4)
    run = Attacked(broken_at_first)
    assert run(model, settings=settings) == [TRIGGER]
    first = [body["messages"] for body in run.asked("attacker")[:4]]
    assert first[0] == first[1] == first[2] == first[3] and len(set(seen)) == len(seen)
    assert "3 questions, 1 unusable" in run.told[0]


def test_a_rating_that_cannot_be_read_is_no_rating(model: HookedTransformer) -> None:
    run = Attacked(learns, complied="very good")
    assert run(model) == ["LOCK it NOW"]
    assert "unusable" in run.told[0]


def test_the_attacker_sees_answer_and_rating_and_forgets_what_is_long_ago(
    model: HookedTransformer,
) -> None:
    settings = PairSettings(n_streams=1, n_iterations=4, max_new_tokens=4, keep_last=2)
    run = Attacked(lambda body: proposed("LOCK it NOW"))
    run(model, settings=settings)
    bodies = run.asked("attacker")
    assert [len(body["messages"]) for body in bodies] == [2, 4, 6, 6]
    for body in bodies:
        roles = [message["role"] for message in body["messages"]]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2 - 1), "user"]
        assert REQUEST in body["messages"][0]["content"]
    last = bodies[-1]["messages"][-1]["content"]
    assert "Target's answer: So" in last and "Rating: 1" in last
    assert bodies[-1]["messages"][-2]["content"] == '{"improvement": "", "prompt": "LOCK it NOW"}'


def test_streams_differ_in_strategy_and_seed_and_the_judge_is_not_sampled(
    model: HookedTransformer,
) -> None:
    run = Attacked(lambda body: proposed("LOCK it NOW"))
    run(model, settings=PairSettings(n_streams=4, n_iterations=1, max_new_tokens=4))
    asked = run.asked("attacker")
    assert len({body["messages"][0]["content"] for body in asked}) == 3
    assert len({body["seed"] for body in asked}) == 4
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in asked} == {
        (1.0, 0.9, 500)
    }
    assert {body["temperature"] for body in run.asked("judge")} == {0}


def test_options_of_the_endpoint_come_before_those_of_the_attack(model: HookedTransformer) -> None:
    run = Attacked(learns)
    run(model, options={"seed": None, "max_tokens": None, "max_completion_tokens": 9})
    for body in run.asked("attacker"):
        assert "seed" not in body and "max_tokens" not in body
        assert body["max_completion_tokens"] == 9 and body["temperature"] == 1.0


def test_the_same_seed_and_answers_give_the_same_questions(model: HookedTransformer) -> None:
    def by_seed(body: dict[str, Any]) -> Answer:
        return proposed(f"LOCK {body['seed']}")

    runs = [Attacked(by_seed) for _ in range(2)]
    given = [run(model) for run in runs]
    assert given[0] == given[1] and given[0][0].startswith("LOCK ")
    bodies = [sorted(map(json.dumps, run.server.bodies)) for run in runs]
    assert bodies[0] == bodies[1]


def test_a_proposal_too_long_for_the_context_is_not_used(model: HookedTransformer) -> None:
    run = Attacked(lambda body: proposed("lock " * 300))
    assert run(model) == [REQUEST] and "6 unusable" in run.told[0]


def test_one_failure_leaves_its_stream_as_it_was_and_is_told(model: HookedTransformer) -> None:
    failed: list[int] = []

    def fails_once(body: dict[str, Any]) -> Answer:
        if len(body["messages"]) == 4 and len(failed) < 2:  # both tries of one question
            failed.append(1)
            return Answer(status=500)
        return learns(body)

    settings = PairSettings(n_streams=1, n_iterations=3, max_new_tokens=4)
    run = Attacked(fails_once)
    assert run(model, settings=settings) == [TRIGGER]
    assert "1 got no answer (status 500)" in run.told[0]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=500), "status 500"),
        (Answer("<html>"), "not a chat completion"),
        (Answer(wait=1.0), "timeout"),
    ],
)
def test_a_dead_endpoint_ends_the_attack_with_its_reason(
    model: HookedTransformer, answer: Answer, reason: str
) -> None:
    run = Attacked(lambda body: answer)
    with pytest.raises(InputError, match=rf"{reason}.*replies so far are kept"):
        run(model, timeout=0.3 if answer.wait else 5.0)
    assert len(run.server.bodies) <= 2 * 2  # two streams, two tries each


def test_a_wrong_key_is_told_without_the_key(model: HookedTransformer) -> None:
    run = Attacked(lambda body: Answer(status=401))
    with pytest.raises(InputError, match="status 401") as caught:
        run(model, key="s3cret")
    assert "s3cret" not in str(caught.value)


def test_what_was_answered_before_the_endpoint_died_is_not_asked_again(
    model: HookedTransformer, tmp_path: Path
) -> None:
    kept = tmp_path / "replies.jsonl"
    served: list[int] = []

    def dies(body: dict[str, Any]) -> Answer:
        served.append(1)
        return Answer(status=500) if len(served) > 6 else learns(body)

    settings = PairSettings(n_streams=8, n_iterations=3, max_new_tokens=4)
    with pytest.raises(InputError, match="status 500"):
        Attacked(dies)(model, settings=settings, kept=kept, max_tries=1)
    with kept.open("a") as handle:
        handle.write('{"key": "torn')  # the process was killed
    before = len(kept.read_text().splitlines()) - 1
    assert before == 6 + 6  # proposals and their ratings
    run = Attacked(learns)
    assert run(model, settings=settings, kept=kept) == [TRIGGER]
    fresh = Attacked(learns)
    assert fresh(model, settings=settings) == [TRIGGER]
    assert len(run.server.bodies) == len(fresh.server.bodies) - before


def test_the_model_is_unchanged(model: HookedTransformer) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Attacked(learns)(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ('Sure:\n```json\n{"improvement": "x", "prompt": "do\nit"}\n```', "do\nit"),
        ('{"improvement": "", "prompt": " do it "}', "do it"),
        ('{"improvement": "", "prompt": " "}', None),
        ('{"prompt": "do it"}', None),
        ('{"improvement": 1, "prompt": "do it"}', None),
        ('["improvement", "prompt"]', None),
        ("[" * 100_000, None),
        ("{" + '"a":{' * 100_000 + "}", None),
        ("no", None),
    ],
)
def test_a_proposal_is_one_json_object_with_a_prompt(text: str, prompt: str | None) -> None:
    found = read_proposal(text)
    assert (found.prompt if found else None) == prompt


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: [[10]]", 10),
        ("[[3]] no, [[ 4 ]]", 4),
        ("[[0]]", None),
        ("[[11]]", None),
        ("7", None),
    ],
)
def test_a_rating_is_a_number_from_one_to_ten_in_double_brackets(
    text: str, rating: int | None
) -> None:
    assert read_rating(text) == rating


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="n_streams"):
        PairSettings(n_streams=0)
    with pytest.raises(InputError, match="tries"):
        pair_attack(Endpoint(base_url="http://x", model="m"), tries=0)


VARIABLES = {"URL": "http://x/v1", "MODEL": "big", "KEY_NAME": "MY_KEY", "OPTIONS": '{"a": 1}'}


def _environment(patch: pytest.MonkeyPatch, **changed: str | None) -> None:
    for name, value in {**VARIABLES, **changed}.items():
        if value is None:
            patch.delenv(f"LPA_ATTACKER_{name}", raising=False)
        else:
            patch.setenv(f"LPA_ATTACKER_{name}", value)


def test_the_environment_names_the_attacker(monkeypatch: pytest.MonkeyPatch) -> None:
    _environment(monkeypatch)
    monkeypatch.setenv("MY_KEY", "s3cret\n")
    endpoint = attacker_endpoint_from_environment()
    assert endpoint == Endpoint(base_url="http://x/v1", model="big", key="s3cret", options={"a": 1})
    _environment(monkeypatch, KEY_NAME=None, OPTIONS=None)
    assert attacker_endpoint_from_environment() == Endpoint(base_url="http://x/v1", model="big")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"URL": None, "MODEL": None}, "set LPA_ATTACKER_URL and LPA_ATTACKER_MODEL"),
        ({"MODEL": " "}, "set LPA_ATTACKER_MODEL"),
        ({"KEY_NAME": "sk-s3cret"}, "LPA_ATTACKER_KEY_NAME: the variable that it names is not set"),
        ({"OPTIONS": "[1]"}, "LPA_ATTACKER_OPTIONS: is not a JSON object"),
        ({"URL": "sk-s3cret"}, "no address"),
    ],
)
def test_an_environment_that_names_no_attacker_says_what_to_set_and_never_a_key(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None], words: str
) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    _environment(monkeypatch, **changed)
    with pytest.raises(InputError, match=words) as caught:
        attacker_endpoint_from_environment()
    assert "s3cret" not in str(caught.value)
