"""The prompt sets themselves: pinned files and how their rows become prompts.

A set is called like its folder in ``LPA_DATA_DIR``; after a hyphen stands the part of it, as in
``harmbench-contextual``. ``malicious_instruct`` and ``tdc2023``, which lie in the folder of
another set, keep their own names. `lpa_interp.benchmarks` finds the files and loads the sets.
"""

from __future__ import annotations

from lpa_interp.prompt_sets.benchmark import Benchmark, BenchmarkFile
from lpa_interp.prompt_sets.dialogues import DIALOGUE_SETS
from lpa_interp.prompt_sets.harm import HARM_SETS
from lpa_interp.prompt_sets.harmbench import HARMBENCH_SETS
from lpa_interp.prompt_sets.harmless import HARMLESS_SETS
from lpa_interp.prompt_sets.statements import STATEMENT_SETS

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkFile"]

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        *HARM_SETS,
        *HARMBENCH_SETS,
        *HARMLESS_SETS,
        *DIALOGUE_SETS,
        *STATEMENT_SETS,
    )
}
"""Every set by name. The user's own files have names too: see `lpa_interp.benchmarks`."""
