"""GCG: a suffix after each harmful request, searched for with the model's own gradients.

One suffix for each prompt, which brings out the start of an affirmative answer. The suffix is
text: its tokens are those that the tokenizer makes of the whole prompt, so what is attacked is
what a user could type.

Source: Zou et al. 2023, arXiv 2307.15043, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lpa_interp.chat import Row, completion_row, format_chat, tokenize, tokenizer_of
from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import Attack, AttackedPrompt, Budget, Mounted, Progress
from lpa_interp.jailbreaks.suffix_loss import SuffixProblem
from lpa_interp.jailbreaks.suffix_search import (
    INITIAL_SUFFIX,
    FoundSuffix,
    SearchOptions,
    allowed_tokens,
    search_suffix,
)
from lpa_interp.jailbreaks.written import DEFAULT_PREFILL
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt


def gcg_attack(
    *,
    n_steps: int = 50,
    search_width: int = 64,
    top_k: int = 64,
    n_replace: int = 1,
    seed: int = 0,
    initial: str = INITIAL_SUFFIX,
    any_token: bool = False,
    early_stop: bool = False,
    batch_size: int = 16,
) -> Attack:
    """The attack with these `SearchOptions`. The paper's are 500 steps, width 512, top-k 256.

    The target is the prompt's own ("Sure, here is a ...") where its set gives one, else "Sure,
    here is". All prompts are searched with the same seed, each by itself.

    Raises:
        InputError: An option is out of range.
    """
    options = SearchOptions(
        n_steps=n_steps,
        search_width=search_width,
        top_k=top_k,
        n_replace=n_replace,
        seed=seed,
        initial=initial,
        any_token=any_token,
        early_stop=early_stop,
        batch_size=batch_size,
    )

    @contextmanager
    def mount(
        model: HookedTransformer, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> Iterator[Mounted]:
        found = find_suffixes(model, prompts, options, progress)
        yield Mounted(
            tuple(
                AttackedPrompt(with_suffix(prompt, suffix_text(model, one.ids)))
                for prompt, one in zip(prompts, found, strict=True)
            )
        )

    return Attack(
        name=f"gcg:{n_steps}",
        description=f"a suffix found in {n_steps} steps of greedy coordinate gradient",
        citation="Zou et al. 2023, arXiv 2307.15043",
        mount=mount,
        budget=Budget(steps=n_steps),
        harmful_only=True,
    )


def find_suffixes(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    options: SearchOptions,
    progress: Progress | None = None,
) -> list[FoundSuffix]:
    """A suffix for each prompt, in their order. Progress is told in steps over all prompts.

    Raises:
        InputError: The suffix has no tokens of its own in a prompt, or the prompt is too long.
        NumericalError: A loss or gradient is not finite.
    """
    allowed = allowed_tokens(model, options.any_token)
    problems = [suffix_problem(model, prompt, options.initial) for prompt in prompts]
    found, total = [], options.n_steps * len(prompts)
    for index, (prompt, problem) in enumerate(zip(prompts, problems, strict=True)):

        def on_step(step: int, before: int = index * options.n_steps) -> None:
            if progress is not None:
                progress(before + step, total)

        def stable(
            ids: Int[Tensor, "n n_suffix"],
            prompt: Prompt = prompt,
            problem: SuffixProblem = problem,
        ) -> Bool[Tensor, " n"]:
            return stable_suffixes(model, prompt, problem, ids)

        found.append(search_suffix(model, problem, options, allowed, stable, on_step))
        if len(found[-1].n_tried) < options.n_steps:  # it stopped early
            on_step(options.n_steps)
    return found


def with_suffix(prompt: Prompt, suffix: str) -> str:
    """The request and the suffix after it."""
    return f"{prompt.text} {suffix}"


def suffix_text(model: HookedTransformer, ids: Row) -> str:
    """The suffix as text, without the space that joins it to the request."""
    tokenizer = tokenizer_of(model)
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).removeprefix(" ")


def suffix_problem(model: HookedTransformer, prompt: Prompt, initial: str) -> SuffixProblem:
    """Where the suffix's tokens are in the chat-formatted prompt, and the target's tokens.

    Raises:
        InputError: The tokenizer gives no offsets or merges the suffix with what is around it,
            or the prompt and its target do not fit into the model's context.
    """
    place = f"prompt {prompt.id}"
    formatted = format_chat(model, with_suffix(prompt, initial))
    space = formatted.rfind(f" {initial}")
    if space < 0:
        raise InputError(place, f"the chat template changes the suffix {initial!r}")
    row = tokenize(model, formatted)
    inside = _tokens_inside(model, formatted, row, space + 1, space + 1 + len(initial))
    target = completion_row(model, (prompt.target or "").strip() or DEFAULT_PREFILL, end=False)
    first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
    problem = SuffixProblem(row[:first], row[first:last], row[last:], target)
    if not inside or not stable_suffixes(model, prompt, problem, torch.tensor([problem.suffix])):
        mistake = f"the suffix {initial!r} has no tokens of its own"
        raise InputError(place, mistake, "another initial suffix, of words or marks with spaces")
    if len(problem) > model.cfg.n_ctx:
        mistake = f"has {len(problem)} tokens with suffix and target"
        raise InputError(place, mistake, f"at most {model.cfg.n_ctx}, the model's context")
    return problem


def _tokens_inside(
    model: HookedTransformer, text: str, row: Row, start: int, end: int
) -> list[int]:
    """Places in a row of the tokens of ``text[start:end]``, which may begin with a space more."""
    tokenizer = tokenizer_of(model)
    if not tokenizer.is_fast:
        raise InputError("tokenizer", "gives no character offsets", "a fast tokenizer")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    n_lead = len(row) - len(encoded.offset_mapping)  # a BOS that the tokenizer did not put there
    return [
        n_lead + index
        for index, (a, b) in enumerate(encoded.offset_mapping)
        if a >= start - 1 and start < b <= end
    ]


def stable_suffixes(
    model: HookedTransformer,
    prompt: Prompt,
    problem: SuffixProblem,
    ids: Int[Tensor, "n n_suffix"],
) -> Bool[Tensor, " n"]:
    """Which suffixes are the same tokens again when the prompt is written out with them."""
    kept = []
    for suffix in ids.tolist():
        text = format_chat(model, with_suffix(prompt, suffix_text(model, suffix)))
        kept.append(tokenize(model, text) == [*problem.before, *suffix, *problem.after])
    return torch.tensor(kept, dtype=torch.bool)
