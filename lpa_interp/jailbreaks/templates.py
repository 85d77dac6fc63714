"""Published jailbreak templates: a text by somebody else around, or before, the request.

``template`` takes GPTFuzzer's human-written templates (Yu et al. 2023, arXiv 2309.10253), which
all hold a placeholder for the request. ``wild`` takes the prompts found in the wild by Shen et
al. (arXiv 2308.03825), most of which hold none: the request then follows them after a blank line,
as their users would go on. Other marks for the request that some of those prompts have
("[PROMPT]", "{input}") follow no convention and are left as they are. A text that occurs in
several rows of a file counts as often.

Neither file is shipped: they are found, checked and downloaded as the prompt sets are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lpa_interp.benchmarks import every_prompt
from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import Attack, AttackedPrompt, Mounted, Progress
from lpa_interp.jailbreaks.context import ROOM, fits, require_room
from lpa_interp.model import HookedTransformer
from lpa_interp.prompt_sets.benchmark import RECALLED, Benchmark, pinned
from lpa_interp.prompt_sets.rows import one_side
from lpa_interp.records import Prompt

PLACEHOLDER = "[INSERT PROMPT HERE]"
"""What the request takes the place of, wherever it occurs."""

TEMPLATE_SETS = {
    "template": Benchmark(
        name="template",
        folder="gptfuzzer",
        files=(
            pinned(
                "GPTFuzzer.csv",
                "e4abf25343b4adb991dd8ddc6189c038f26a6e74064d792cced69f56f71577fc",
                "sherdencooper/GPTFuzz",
                "1eddeb565740ae311b5f4950492b011a6f866fe7",
                "datasets/prompts/GPTFuzzer.csv",
            ),
        ),
        parse=one_side("template", text="text", harmful=True, id="id"),
        source="GPTFuzzer, the human-written templates it starts from",
        licence="MIT",
        citation="Yu et al. 2023, GPTFuzzer, arXiv 2309.10253",
        note="each template holds a placeholder for the request",
    ),
    "wild": Benchmark(
        name="wild",
        folder="jailbreak_llms",
        files=(
            pinned(
                "jailbreak_prompts_2023_12_25.csv",
                "accf97463de96c33c48453dfee9600191ff6fd5a0c43f3f11d5ebf98d1a5de55",
                "kaif0102/Sentinel-AI-Defense-System-",
                "f41d3d0e4163991473743960f981ccc9dd38e1a6",
                "jailbreak_prompts_2023_12_25.csv",
            ),
        ),
        parse=one_side("wild", text="prompt", harmful=True, category="platform"),
        source="in-the-wild jailbreak prompts to 25 December 2023, a mirror of "
        "verazuo/jailbreak_llms",
        licence=f"MIT ({RECALLED})",
        citation="Shen et al. 2023, Do Anything Now, arXiv 2308.03825",
        note="few prompts hold a placeholder for the request; it follows the others",
    ),
}
"""Where the templates of an attack come from. They are not prompts to measure on."""

_DESCRIPTIONS = {
    "template": "the request inside a published jailbreak template",
    "wild": "the request inside or after a jailbreak prompt found in the wild",
}


@dataclass(frozen=True, slots=True)
class Template:
    """A template and its number: GPTFuzzer's own from 0, the row in the wild file from 1."""

    number: int
    text: str


def template_attack(
    source: str,
    seed: int = 0,
    only: int | None = None,
    download: bool = False,
    room: int = ROOM,
) -> Attack:
    """The request in a published template: one per request, or the same for all.

    A prompt's template follows from the seed, the prompt and the model's context alone, not
    from the other prompts, so two models with one tokenizer and context get the same one. A
    harmful request and its harmless twin get the same one too, where both fit. See `chosen`.

    Args:
        source: ``template`` (GPTFuzzer) or ``wild``.
        seed: Of the choice.
        only: The number of one template for every prompt, for a sweep over templates. The
            attack is then called ``SOURCE:NUMBER``.
        download: Fetch a file that is not on this machine.
        room: Tokens of the context kept free for the answer.

    Raises:
        InputError: The source is unknown, the file is not here and ``download`` is off, it
            differs from the pinned sha256, there is no template ``only``, or ``room`` is below
            1. When mounted: no template fits into the context with a prompt.
    """
    require_room(room)
    templates = load_templates(source, download)
    if only is not None:
        templates = [_numbered(source, templates, only)]

    @contextmanager
    def mount(
        model: HookedTransformer, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> Iterator[Mounted]:
        given = []
        for prompt in prompts:
            template = chosen(model, templates, prompt, seed, room)
            given.append(AttackedPrompt(filled(template, prompt.text)))
            if progress is not None:
                progress(len(given), len(prompts))
        yield Mounted(tuple(given))

    which = f"one of {len(templates)} for each request" if only is None else f"number {only}"
    return Attack(
        name=source if only is None else f"{source}:{only}",
        description=f"{_DESCRIPTIONS[source]}, {which}",
        citation=TEMPLATE_SETS[source].citation,
        mount=mount,
    )


def load_templates(source: str, download: bool = False) -> list[Template]:
    """The templates of ``template`` or ``wild``, in the order of their file.

    Raises:
        InputError: The source is unknown, or its file is not here (and ``download`` is off),
            differs from the pinned sha256 or cannot be read.
    """
    if source not in TEMPLATE_SETS:
        raise InputError(f"templates {source!r}", "unknown name", ", ".join(TEMPLATE_SETS))
    rows = every_prompt(TEMPLATE_SETS[source], download)
    return [Template(int(row.id.removeprefix(f"{source}-")), row.text) for row in rows]


def filled(template: Template, request: str) -> str:
    """The template with the request in place of the placeholder, or after a blank line."""
    if PLACEHOLDER in template.text:
        return template.text.replace(PLACEHOLDER, request)
    return f"{template.text}\n\n{request}"


def chosen(
    model: HookedTransformer,
    templates: Sequence[Template],
    prompt: Prompt,
    seed: int = 0,
    room: int = ROOM,
) -> Template:
    """The template of a prompt: the first that fits, in an order drawn for this prompt.

    The order is that of hashes of the seed, the prompt (or pair of twins) and the number. A
    smaller context, or a longer twin, changes only the choices that do not fit.

    Raises:
        InputError: No template fits into the context with this prompt.
    """
    key = prompt.pair or prompt.id
    for template in sorted(templates, key=lambda one: _draw(seed, key, one.number)):
        if fits(model, AttackedPrompt(filled(template, prompt.text)), room):
            return template
    found = f"none of {len(templates)} templates fits into the context with it"
    if len(templates) == 1:
        found = f"template {templates[0].number} does not fit into the context with it"
    raise InputError(
        f"prompt {prompt.id}",
        found,
        f"the context holds {model.cfg.n_ctx} tokens, of which {room} are for the answer",
    )


def fitting(
    model: HookedTransformer,
    templates: Sequence[Template],
    request: str = "",
    room: int = ROOM,
) -> list[Template]:
    """The templates that fit into the model's context with a request; the others are left out.

    With no request it says which templates the model can be given at all, for a sweep over
    them or to report how many are never chosen: the difference in number.
    """
    return [one for one in templates if fits(model, AttackedPrompt(filled(one, request)), room)]


def _draw(seed: int, key: str, number: int) -> bytes:
    return hashlib.sha256(f"{seed} {number} {key}".encode()).digest()


def _numbered(source: str, templates: Sequence[Template], number: int) -> Template:
    for template in templates:
        if template.number == number:
            return template
    numbers = [template.number for template in templates]
    raise InputError(
        f"attack {source}:{number}", "no such template", f"{min(numbers)} to {max(numbers)}"
    )
