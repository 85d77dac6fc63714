"""PAIR: an attacker model rewrites the request until a judge says that the model complied.

Several streams run side by side. In each, the attacker proposes a prompt, the model under attack
answers it, the judge rates the answer from 1 to 10, and the attacker sees answer and rating.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lpa_interp.endpoint import Endpoint
from lpa_interp.errors import InputError
from lpa_interp.generation import generate
from lpa_interp.jailbreaks.attack import (
    Attack,
    AttackedPrompt,
    Budget,
    Mounted,
    Progress,
    attacked_rows,
)
from lpa_interp.jailbreaks.attacker import (
    KeptReplies,
    Question,
    Respondent,
    Tell,
    said_by,
    sampled,
    tell_or_warn,
)
from lpa_interp.jailbreaks.pair_texts import (
    COMPLIED,
    FEEDBACK,
    OPENING,
    RATING,
    STRATEGIES,
    SYSTEM,
    Proposal,
    read_proposal,
    read_rating,
)
from lpa_interp.jailbreaks.written import DEFAULT_PREFILL
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """How wide and how long the search is. Defaults: the paper's experiments.

    ``max_new_tokens`` of an answer during the search; ``keep_last`` exchanges that the attacker
    remembers. Source: Chao et al. 2023, arXiv 2310.08419, experiments, and the released code.
    """

    n_streams: int = 30
    n_iterations: int = 3
    max_new_tokens: int = 150
    keep_last: int = 4
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("n_streams", "n_iterations", "max_new_tokens", "keep_last", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"pair {name}", f"{getattr(self, name)} is not allowed", "1 up")


def pair_attack(
    endpoint: Endpoint,
    settings: PairSettings | None = None,
    *,
    judge: Endpoint | None = None,
    seed: int = 0,
    tries: int = 5,
    workers: int = 4,
    kept: Path | None = None,
    tell: Tell | None = None,
) -> Attack:
    """Prompt Automatic Iterative Refinement: each prompt is replaced by the best one found.

    The search ends when an answer is rated 10, or after the last iteration. The prompt with the
    highest rating is given, the earliest where several have it; the request itself where no
    proposal was rated. A proposal that is not JSON or does not fit the model's context, and a
    rating that cannot be read, are asked for again; a stream that stays without one is as it
    was, and asked again in the next iteration.

    Args:
        endpoint: The attacker, sampled at temperature 1 unless its options say otherwise.
        settings: Width and length of the search.
        judge: Who rates the answers; None asks the attacker's model, at temperature 0.
        seed: Of the seeds that are sent with the questions.
        tries: How often a reply that cannot be used is asked for.
        workers: Questions asked at the same time.
        kept: A file of replies, so that a later process goes on where this one stopped.
        tell: Told of lost questions, one line each time the attack is mounted.

    Raises:
        InputError: When mounted: the endpoint gives no answers, or no request can succeed.

    Source: Chao et al. 2023, arXiv 2310.08419, algorithm 1; retries as in the released code.
    """
    chosen, replies = settings or PairSettings(), KeptReplies(kept)
    attacker = Respondent(sampled(endpoint), seed, tries, workers, replies)
    rater = Respondent(judge or endpoint, seed, tries, workers, replies)

    @contextmanager
    def mount(
        model: HookedTransformer, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> Iterator[Mounted]:
        found = []
        for prompt in prompts:
            found.append(_search(model, prompt, attacker, rater, chosen))
            if progress is not None:
                progress(len(found), len(prompts))
        for asked in (attacker, rater):
            asked.tell_losses("pair", tell)
        if None in found:
            plain = f"{found.count(None)} of {len(found)} prompts had no rated proposal"
            tell_or_warn(f"pair: {plain} and are given as they stand", tell)
        pairs = zip(found, prompts, strict=True)
        yield Mounted(tuple(AttackedPrompt(text or prompt.text) for text, prompt in pairs))

    width, length = chosen.n_streams, chosen.n_iterations
    return Attack(
        name="pair",
        description=f"{attacker.endpoint.model} rewrites the request, {rater.endpoint.model} rates "
        f"the answers: {width} streams x {length} iterations",
        citation="Chao et al. 2023, arXiv 2310.08419; prompts in our words",
        mount=mount,
        budget=Budget(queries=width * length),
        harmful_only=True,
    )


@dataclass(slots=True)
class _Stream:
    """One conversation with the attacker: its instructions, past exchanges and the next turn."""

    label: str
    system: dict[str, str]
    turn: dict[str, str]
    past: list[dict[str, str]] = field(default_factory=list)

    def question(self, iteration: int) -> Question:
        return Question(f"{self.label}.{iteration}", (self.system, *self.past, self.turn))

    def go_on(self, proposal: Proposal, feedback: str, keep_last: int) -> None:
        self.past += [self.turn, said_by("assistant", proposal.reply)]
        del self.past[: -2 * keep_last]
        self.turn = said_by("user", feedback)


def _search(
    model: HookedTransformer,
    prompt: Prompt,
    attacker: Respondent,
    rater: Respondent,
    settings: PairSettings,
) -> str | None:
    """The best proposal for one prompt; None where none was rated."""
    streams = [_start(prompt, place) for place in range(settings.n_streams)]
    best, highest = None, 0

    def usable(text: str) -> Proposal | None:
        found = read_proposal(text)
        return found if found and _fits(model, found.prompt, settings.max_new_tokens) else None

    for iteration in range(settings.n_iterations):
        proposals = attacker.ask([stream.question(iteration) for stream in streams], usable)
        pairs = zip(streams, proposals, strict=True)
        live = [(stream, proposal) for stream, proposal in pairs if proposal is not None]
        rows = attacked_rows(model, [AttackedPrompt(proposal.prompt) for _, proposal in live])
        answers = generate(model, rows, settings.max_new_tokens, settings.batch_size)
        ratings = rater.ask(_to_rate(prompt.text, live, answers, iteration), read_rating)
        for (stream, proposal), answer, rating in zip(live, answers, ratings, strict=True):
            if rating is None:
                continue
            if rating > highest:
                best, highest = proposal.prompt, rating
            feedback = FEEDBACK.format(answer=answer, goal=prompt.text, rating=rating)
            stream.go_on(proposal, feedback, settings.keep_last)
        if highest >= COMPLIED:
            break
    return best


def _start(prompt: Prompt, place: int) -> _Stream:
    goal, target = prompt.text, (prompt.target or DEFAULT_PREFILL).rstrip()
    strategy = STRATEGIES[place % len(STRATEGIES)]
    system = SYSTEM.format(goal=goal, target=target, strategy=strategy)
    opening = OPENING.format(goal=goal, target=target)
    return _Stream(f"{prompt.id}.{place}", said_by("system", system), said_by("user", opening))


def _to_rate(
    goal: str, live: Sequence[tuple[_Stream, Proposal]], answers: Sequence[str], iteration: int
) -> list[Question]:
    return [
        Question(
            f"{stream.label}.{iteration}.rating",
            (said_by("user", RATING.format(goal=goal, prompt=proposal.prompt, answer=answer)),),
        )
        for (stream, proposal), answer in zip(live, answers, strict=True)
    ]


def _fits(model: HookedTransformer, text: str, max_new_tokens: int) -> bool:
    (row,) = attacked_rows(model, [AttackedPrompt(text)])
    return len(row) + max_new_tokens <= model.cfg.n_ctx
