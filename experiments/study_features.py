"""Sparse autoencoder features of a run: one autoencoder, read on the base and trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.reads import SIDES, request_rows
from experiments.workbench import Workbench
from lpa_interp.errors import InputError
from lpa_interp.records import FeatureShift, ModelLabel
from lpa_interp.runs import content_hash, write_rows
from lpa_interp.tables import read_text

if TYPE_CHECKING:
    import numpy as np

    from lpa_interp.chat import Row
    from lpa_interp.model import HookedTransformer

READ: tuple[ModelLabel, ...] = ("base", "lpa")


def explain_features(bench: Workbench) -> bool:
    """Trains or loads the autoencoder, says how well it reads both models, compares features.

    True where the autoencoder came from the cache.
    """
    from probes import sae_quality

    config, folder = bench.study.features, bench.run / "features"
    with bench.model("base") as model:
        sae, reused = autoencoder(bench, model)
        rows = prompt_rows(bench, model)
    name = config.pretrained_id or f"TopK k={config.k}, trained on the base model here"
    quality, features = [], {}
    for label in READ:
        with bench.model(label) as model:
            bench.tell.say(f"  {label}: reading {sae.cfg.d_sae} features")
            held_out = rows["harmful"] + rows["harmless"]
            quality.append(sae_quality(model, sae, held_out, label, name))
            features[label] = read_features(model, sae, rows)
    shifts = all_shifts(bench, features, str(sae.cfg.metadata.hook_name))
    write_rows(folder / "quality.jsonl", quality)
    write_rows(folder / "shifts.jsonl", shifts)
    write_rows(folder / "overlaps.jsonl", overlaps(features, shifts))
    return reused


def autoencoder(bench: Workbench, model: HookedTransformer) -> tuple[Any, bool]:
    """The pretrained autoencoder the study names, or one trained on the base model."""
    from lpa_interp.model import source_of
    from lpa_interp.sources import cache_folder, source_hash
    from probes import load_pretrained, train_sae

    config = bench.study.features
    if config.pretrained_release and config.pretrained_id:
        device = str(model.cfg.device)
        return load_pretrained(config.pretrained_release, config.pretrained_id, device), True
    source, texts = source_of(model), training_texts(bench, model)
    key = source_hash(source) if source is not None else "unknown"
    made_of = [config.model_dump(mode="json"), texts, bench.study.seed, key]
    folder = cache_folder() / "autoencoders" / content_hash(made_of)
    reused = (folder / "cfg.json").is_file()
    if not reused:
        bench.tell.say(f"  base: training an autoencoder on {config.training_tokens} tokens")
    return train_sae(model, texts, config, bench.study.seed, key, folder), reused


def training_texts(bench: Workbench, model: HookedTransformer) -> list[str]:
    """Chat prompts that no result is reported on, the shipped text, and the study's corpus."""
    from lpa_interp.benchmarks import load_text
    from lpa_interp.chat import format_chat

    requests = [
        prompt.text
        for split in ("organism", "validation")
        for prompts in bench.requests(split).values()
        for prompt in prompts
    ]
    prompts = requests + [statement.text for statement in bench.trait_statements]
    text = load_text()[1]
    parts = [format_chat(model, prompt) for prompt in prompts]
    parts += [part for part in text.split("\n\n") if part.strip()]
    return parts + corpus_texts(bench.study.features.corpus)


def corpus_texts(corpus: Path | None) -> list[str]:
    """Paragraphs of a text file or of a folder's .txt files.

    Raises:
        InputError: There is no such file, or no text in it.
    """
    if corpus is None:
        return []
    files = sorted(corpus.glob("*.txt")) if corpus.is_dir() else [corpus]
    texts = [part for file in files for part in read_text(file).split("\n\n") if part.strip()]
    if not texts:
        raise InputError(corpus, "holds no text", "a UTF-8 .txt file, or a folder of them")
    return texts


def prompt_rows(bench: Workbench, model: HookedTransformer) -> dict[str, list[Row]]:
    """Rows of the statements by side and of the test requests by side."""
    from probes import statement_rows

    system = bench.study.traits.system_prompt
    rows = {
        side: statement_rows(model, [s for s in bench.trait_statements if s.side == side], system)
        for side in ("positive", "negative")
    }
    requests = request_rows(bench, model, "test", bench.study.probes.ablation_prompts)
    return rows | {side: requests[side] for side in SIDES}


def read_features(
    model: HookedTransformer, sae: Any, rows: dict[str, list[Row]]
) -> dict[str, np.ndarray]:
    """Feature activations [n, n_features] of each group of prompts."""
    from probes import content_features

    return {group: content_features(model, sae, batch) for group, batch in rows.items()}


def all_shifts(
    bench: Workbench, features: dict[ModelLabel, dict[str, np.ndarray]], hook_name: str
) -> list[FeatureShift]:
    """Traits and requests in the base model, and trained against base on all of them."""
    import numpy as np

    from probes import feature_shifts

    base, lpa = features["base"], features["lpa"]
    facets = {
        side: [f"{s.factor}/{s.facet}" for s in bench.trait_statements if s.side == side]
        for side in ("positive", "negative")
    }
    common: dict[str, Any] = {
        "hook_name": hook_name,
        "top_k": bench.study.features.top_k,
        "n_permutations": bench.study.features.n_permutations,
        "seed": bench.study.seed,
    }
    traits = feature_shifts(
        base["positive"],
        base["negative"],
        contrast="traits",
        model="base",
        groups=(facets["positive"], facets["negative"]),
        **common,
    )
    # Statements of a facet, and a request with its twin, are swapped together.
    pairs = [f"pair {place}" for place in range(len(base["harmful"]))]
    prompts = [*facets["positive"], *facets["negative"], *pairs, *pairs]
    requests = feature_shifts(
        base["harmful"],
        base["harmless"],
        contrast="requests",
        model="base",
        paired=True,
        **common,
    )
    training = feature_shifts(
        np.concatenate(list(lpa.values())),
        np.concatenate(list(base.values())),
        contrast="training",
        model="lpa",
        groups=(prompts, prompts),
        paired=True,
        **common,
    )
    return traits + requests + training


def overlaps(
    features: dict[ModelLabel, dict[str, np.ndarray]], shifts: Sequence[FeatureShift]
) -> list[Any]:
    """How many top features two contrasts share, against chance among active features."""
    import numpy as np

    from probes import feature_overlaps

    active = np.any([(v > 0).any(0) for groups in features.values() for v in groups.values()], 0)
    return feature_overlaps(shifts, int(active.sum())) if shifts else []
