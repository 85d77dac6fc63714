"""What the stages of one run share: the study, its folder, its statements and its models.

Models load on first use and one HookedTransformer serves the base and the trained model: the
adapter is switched off and on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from experiments.progress import Reporter
from lpa_interp.benchmarks import list_benchmarks, load_benchmark
from lpa_interp.config import Study
from lpa_interp.records import ModelLabel, Prompt, TraitStatement
from lpa_interp.runs import RunDirectory
from lpa_interp.traits import load_traits
from lpa_interp.variants import vary

if TYPE_CHECKING:
    from lpa_interp.lora import LoraAdapter
    from lpa_interp.model import HookedTransformer
    from probes.activations import Activations


PERSONALITY_SOURCES = ("builtin", "published_csv", "ipip_neo", "anthropic_persona")


def study_statements(study: Study) -> list[TraitStatement]:
    """The statements of a study, with its factor and variant."""
    config = study.traits
    statements = load_traits(config.source, config.path)
    return vary(statements, config.variant, config.factor, study.seed)


class Workbench:
    """The study, its run directory and everything that stages read in common."""

    def __init__(self, study: Study, run: RunDirectory, tell: Reporter) -> None:
        self.study, self.run, self.tell = study, run, tell
        self.organism_reused = False
        self.stage_key = ""
        """Hash of all that decides the result of the stage that runs now."""
        self.refusal_ids: list[int] | None = None
        self.reads: dict[str, Activations] = {}
        self._adapter: LoraAdapter | None = None

    @cached_property
    def statements(self) -> list[TraitStatement]:
        """What the study trains on."""
        return study_statements(self.study)

    @cached_property
    def trait_statements(self) -> list[TraitStatement]:
        """The personality statements that probes read, as given.

        They are the study's own where it trains on personality, and the shipped ones where it
        trains on something else: a control is read with the same probes as LPA.
        """
        config = self.study.traits
        given = config.source in PERSONALITY_SOURCES
        return load_traits(self.trait_source, config.path if given else None)

    @property
    def trait_source(self) -> str:
        """Where the statements that probes read are from."""
        source = self.study.traits.source
        return source if source in PERSONALITY_SOURCES else "builtin"

    def load_source(self) -> HookedTransformer:
        """The model that the study names, loaded afresh: only the base is kept in memory."""
        return self._load(self.study.model.name)

    @cached_property
    def base(self) -> HookedTransformer:
        """What training starts from: the refusal organism, or the source itself."""
        if not self.study.organism.enabled:
            return self.load_source()
        from lpa_interp.organism import make_organism

        folder, self.organism_reused = make_organism(
            self.load_source(), self.study.organism, self.study.seed, self.tell
        )
        return self._load(str(folder))

    def _load(self, name_or_path: str) -> HookedTransformer:
        from lpa_interp.model import load_model

        config = self.study.model
        return load_model(name_or_path, config.device, config.dtype, config.trust_remote_code)

    def use_adapter(self, adapter: LoraAdapter) -> None:
        """Takes an adapter that is attached to `base` already."""
        self._adapter = adapter

    @property
    def adapter(self) -> LoraAdapter:
        """The trained adapter, attached to `base`."""
        if self._adapter is None:
            from lpa_interp.export import load_adapter

            self._adapter = load_adapter(self.base, self.run / "adapter")
        return self._adapter

    @contextmanager
    def model(self, label: ModelLabel) -> Iterator[HookedTransformer]:
        """The model that a label stands for, for the time of a block."""
        if label == "source" and self.study.organism.enabled:
            yield self.load_source()
            return
        model = self.base
        if label == "lpa":
            _ = self.adapter
            yield model
        elif self._adapter is None:
            yield model
        else:
            with self._adapter.disabled():
                yield model

    @cached_property
    def labels(self) -> tuple[ModelLabel, ...]:
        """The models that are measured: the source too where the base is an organism."""
        return ("source", "base", "lpa") if self.study.organism.enabled else ("base", "lpa")

    @cached_property
    def benchmarks(self) -> dict[str, list[Prompt]]:
        """The study's benchmarks that are on this machine."""
        missing = {name for name, _ in self.skipped}
        limit, seed = self.study.evaluate.limit, self.study.seed
        return {
            name: load_benchmark(name, limit=limit, seed=seed)
            for name in self.study.evaluate.benchmarks
            if name not in missing
        }

    @cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """Benchmarks of the study that are not on this machine, with the reason."""
        listed = {entry["name"]: entry for entry in list_benchmarks(self.study.evaluate.benchmarks)}
        return [
            (f"{name}", str(listed[name]["reason"]))
            for name in self.study.evaluate.benchmarks
            if name in listed and not listed[name]["available"]
        ]

    def requests(self, split: str, limit: int | None = None) -> dict[str, list[Prompt]]:
        """Shipped requests of a split by side; pairs stay together under a limit."""
        prompts = load_benchmark("requests", split=split, limit=limit, seed=self.study.seed)
        return {
            side: [prompt for prompt in prompts if prompt.side == side]
            for side in ("harmful", "harmless")
        }
