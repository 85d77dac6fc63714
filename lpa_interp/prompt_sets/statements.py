"""The personality statements of the LPA release as prompts: what its models are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lpa_interp.prompt_sets.benchmark import Benchmark, pinned
from lpa_interp.records import Prompt
from lpa_interp.trait_files import load_published_csv

_RELEASE = (
    "dwks/latent-adversarial-training-personality",
    "596f0eb181df4dd06efe0f96c154d59f3cf3f369",
)
_BENIGN_D12 = "ba75597f2a5a5099e860517b4568a27b47a6d27d40e67c430ad228c0b2e93bea"


def parse_statements(paths: Sequence[Path], name: str) -> list[Prompt]:
    """Negative statements are the harmful side; the target is the answer that agrees.

    Args:
        paths: ``benign_trait.csv`` and ``harmful_trait.csv`` of one folder.
        name: Of the set.
    """
    return [
        Prompt(
            id=f"{name}-{statement.id.removeprefix('published-')}",
            text=statement.text,
            harmful=statement.side == "negative",
            category="statement",
            source=name,
            target=statement.undesired if statement.side == "negative" else statement.desired,
        )
        for statement in load_published_csv(paths[0].parent)
    ]


def _set(name: str, part: str, benign: str, harmful: str, more: str = "") -> Benchmark:
    files = tuple(
        pinned(f"dataset/{part}/{file}", sha256, *_RELEASE, f"dataset/{part}/{file}")
        for file, sha256 in (("benign_trait.csv", benign), ("harmful_trait.csv", harmful))
    )
    return Benchmark(
        name=name,
        folder="lpa_personality",
        files=files,
        parse=partial(parse_statements, name=name),
        source=f"statements {part} of the release of arXiv 2605.08496{more}",
        licence="MIT",
        citation="arXiv 2605.08496",
        note="statements to agree with, not requests; the side is that of the trait, and LPA is "
        "trained on them",
    )


STATEMENT_SETS = (
    _set(
        "lpa_personality",
        "D12",
        _BENIGN_D12,
        "34e55abe44a6183babc459cf3b3e649b7079e9d3bec9eb6af730b5c974637e6e",
        ", byte for byte also its D18e",
    ),
    _set(
        "lpa_personality-D12-full",
        "D12-full",
        _BENIGN_D12,
        "5cab08cae40a4fb31c0585b832a45eb7e091990131ff05a7196a3d449058eba6",
    ),
    _set(
        "lpa_personality-D26",
        "D26",
        "32923ade86d2c75cb9406d0558b130ee6337b6499406c7c45cfe78efe2878cd7",
        "271fcbdca7adf73a1b2ebd6be15b5611e7c7b87de70be7acf8fbd6f495de97c7",
    ),
    _set(
        "lpa_personality-D5c",
        "D5c",
        "05f4ade445fa1a32a19a2023bb673e0e0630d8496da13565c0c5d409143a010c",
        "188162e30e69a93f66cb44ce4c32c2066d5e175278e3e7811b114ca6c1b3ef47",
    ),
)
