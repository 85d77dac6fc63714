"""Directions of harmful personas, from what the model itself writes under opposed instructions.

Each question is asked under system prompts that ask for the persona and under ones that ask for
its opposite; the activations are means over the tokens of the model's own completions, and the
difference of the two sides' means is the direction.

What differs from the source: it keeps the completions that a judge finds to follow the
instruction, and here all are kept. A model that follows no instruction gives a direction of the
instructions' wording. The questions are fewer, one completion each, greedy and short.

Source: Chen et al. 2025, arXiv 2507.21509, section 2 (persona vectors).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lpa_interp.chat import Row, completion_row, end_of_turn
from lpa_interp.errors import InputError
from lpa_interp.generation import generate
from lpa_interp.model import HookedTransformer
from probes.activations import Activations, collect_completions
from probes.text_sets import TextSet, prompt_rows
from probes.trait_sets import trait_set

N_QUESTIONS, COMPLETION_TOKENS = 5, 16


def persona_texts(trait: str, n_questions: int = N_QUESTIONS, seed: int = 0) -> TextSet:
    """Questions dealt to the pairs of opposed instructions, each asked under both of its pair.

    Args:
        trait: ``evil``, ``sycophantic`` or ``hallucinating``.
        n_questions: Questions; the source asks each of twenty under all five pairs, 100. Up to
            twenty of them are different ones.
        seed: Of their order.

    Returns:
        Two prompts a question, without completions. Labels are True for the opposite of the
        persona, and the groups are the pairs of instructions.

    Raises:
        InputError: The trait is unknown, its file is not on this machine or bad, or there are
            fewer questions.
    """
    texts = trait_set(f"persona_vectors:{trait}")
    pairs, questions = list(dict.fromkeys(texts.groups)), list(dict.fromkeys(texts.prompts))
    most = len(pairs) * len(questions)
    if not 2 <= n_questions <= most:
        raise InputError("n_questions", f"{n_questions} is not allowed", f"2 to {most}")
    order = np.random.default_rng(seed).permutation(len(questions))
    # Each pair has a stretch of the questions to begin with, and goes on to those of the others.
    stretch, asked = max(1, len(questions) // len(pairs)), set()
    for number in range(n_questions):
        turn, pair = divmod(number, len(pairs))
        place = (turn + pair * stretch) % len(questions)
        asked.add((pairs[pair], questions[order[place]]))
    chosen = zip(texts.groups, texts.prompts, strict=True)
    return texts.select([index for index, both in enumerate(chosen) if both in asked])


def persona_rows(
    model: HookedTransformer, texts: TextSet, max_new_tokens: int = COMPLETION_TOKENS
) -> list[Row]:
    """Token rows of the prompts, up to where the answer begins.

    Raises:
        InputError: The chat template takes no system prompt, or a prompt with its answer is
            longer than the model's context.
    """
    rows = prompt_rows(model, texts)
    longest, room = max(map(len, rows)), model.cfg.n_ctx - max_new_tokens
    if longest > room:
        mistake = f"a prompt has {longest} tokens"
        raise InputError(f"text set {texts.name}", mistake, f"at most {room} fit this model")
    return rows


def read_persona(
    model: HookedTransformer,
    rows: Sequence[Row],
    hook_names: Sequence[str],
    max_new_tokens: int = COMPLETION_TOKENS,
    batch_size: int = 16,
) -> Activations:
    """Mean activations over the tokens of the model's own greedy completions.

    The completions are kept nowhere. An empty one is read at the end-of-turn token that it is.

    Args:
        model: Any HookedTransformer; hooks that are open on it take part.
        rows: From `persona_rows`.
        hook_names: As in `probes.activations.collect`.
        max_new_tokens: Length of the completions at most.
        batch_size: Texts per forward pass.
    """
    # Text can come back as more tokens than it was written in.
    answers = [
        completion_row(model, text, end=False)[:max_new_tokens] or [end_of_turn(model)]
        for text in generate(model, rows, max_new_tokens, batch_size)
    ]
    return collect_completions(model, rows, answers, hook_names, batch_size)
