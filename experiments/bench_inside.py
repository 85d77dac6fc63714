"""The part of ``make bench`` on the inside of a model: each against the plain way, in turn.

Candidates of the refusal search against one candidate and one prompt at a time; the activations
of all layers against a forward pass that keeps none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from experiments.bench import ratios, show
from experiments.plain_refusal import candidate_scores
from experiments.turns import BATCH_SIZE, REPEATS, TOLERANCE, in_turn, require
from lpa_interp.benchmarks import load_benchmark
from lpa_interp.chat import Row, chat_rows, post_instruction_row, row_batches
from lpa_interp.judges import refusal_token_ids
from lpa_interp.model import HookedTransformer
from probes.activations import collect
from probes.refusal import mean_differences
from probes.scoring import addition_odds_by_layer, score_ablations

N_CANDIDATES, N_PLAIN = 24, 3
N_VALIDATION = 16


def bench_inside(model: HookedTransformer) -> None:
    """Measures candidates and activations on shipped requests."""
    bench_candidates(model, *request_rows(model))
    prompts = load_benchmark("requests")
    bench_activations(model, chat_rows(model, [prompt.text for prompt in prompts[:32]]))


def request_rows(model: HookedTransformer) -> tuple[list[Row], list[Row]]:
    """Harmful and harmless requests."""
    prompts = load_benchmark("requests", split="validation")
    harmful, harmless = (
        chat_rows(model, [prompt.text for prompt in prompts if prompt.harmful is side])
        for side in (True, False)
    )
    return harmful, harmless


def bench_candidates(
    model: HookedTransformer,
    harmful: Sequence[Row],
    harmless: Sequence[Row],
    n_candidates: int = N_CANDIDATES,
    n_plain: int = N_PLAIN,
    n_validation: int = N_VALIDATION,
    repeats: int = 3,
) -> None:
    """Bypass, induce and KL of candidates of the refusal search: ours, and one by one.

    Candidates are spread evenly over positions and layers. One by one every candidate costs the
    same, so only the first ``n_plain`` are scored so, and seconds per candidate are compared.
    """
    positions = tuple(range(-len(post_instruction_row(model)), 0))
    half = len(harmful) // 2
    raw = mean_differences(model, harmful[:half], harmless[:half], positions)
    places = np.argwhere(raw.any(axis=-1))
    places = places[np.linspace(0, len(places) - 1, n_candidates).round().astype(int)]
    # In an order without a trend in depth, so that any of them stand for all.
    places = np.random.default_rng(0).permutation(places)
    sides = harmful[half:][:n_validation], harmless[half:][:n_validation]
    ids = refusal_token_ids(model)

    def plain() -> np.ndarray:
        chosen = [(raw[position, layer], int(layer)) for position, layer in places[:n_plain]]
        return np.array([candidate_scores(model, *sides, *one, ids) for one in chosen])

    ways = {"plain": plain, "ours": lambda: our_scores(model, *sides, raw, places, ids)}
    times, found = in_turn(ways, repeats, model, warm=False)
    apart = float(np.abs(found["plain"] - found["ours"][:n_plain]).max())
    require(apart < TOLERANCE, f"candidates' scores differ by {apart:.2g}")
    one_by_one = [seconds / n_plain for seconds in times["plain"]]
    together = [seconds / n_candidates for seconds in times["ours"]]
    what = f"a refusal candidate on {len(sides[0])} + {len(sides[1])} prompts"
    show(f"{what}: one by one ({n_plain}), s", one_by_one)
    show(f"{what}: ours ({n_candidates}), s", together)
    show(f"{what}: one by one / ours", ratios(one_by_one, together))
    show(f"{what}: largest difference of a score", [apart])


def our_scores(
    model: HookedTransformer,
    harmful: Sequence[Row],
    harmless: Sequence[Row],
    raw: np.ndarray,
    places: np.ndarray,
    ids: Sequence[int],
    batch_size: int = 64,
) -> np.ndarray:
    """Bypass, induce and KL of each candidate as the search scores them, [n_candidates, 3]."""
    at = tuple(places.T)
    vectors = torch.from_numpy(raw).to(model.cfg.device, model.cfg.dtype)
    units = torch.nn.functional.normalize(vectors[at], dim=-1)[:, None]
    wanted = np.zeros(raw.shape[:2], dtype=bool)
    wanted[at] = True
    kl = score_ablations(model, harmless, units, ids, batch_size).kl
    induce = addition_odds_by_layer(model, harmless, vectors, wanted, ids, batch_size)[at]
    bypass = score_ablations(model, harmful, units, ids, batch_size).modified
    return np.stack([scores.mean(axis=1) for scores in (bypass, induce, kl)], axis=1)


def bench_activations(
    model: HookedTransformer, rows: Sequence[Row], repeats: int = REPEATS
) -> None:
    """Activations of every layer at two positions, against a pass that keeps none."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
    ways: dict[str, Callable[[], object]] = {
        "pass": lambda: plain_pass(model, rows),
        "collect": lambda: collect(model, rows, names, (-2, -1), BATCH_SIZE),
    }
    times, _ = in_turn(ways, repeats, model)
    what = f"activations of {len(names)} layers on {len(rows)} prompts"
    show(f"{what}: one forward pass, s", times["pass"])
    show(f"{what}: ours, s", times["collect"])
    show(f"{what}: ours / one forward pass", ratios(times["collect"], times["pass"]))


def plain_pass(model: HookedTransformer, rows: Sequence[Row]) -> None:
    """The residual stream before the last block, kept nowhere."""
    for _, tokens, mask in row_batches(model, rows, BATCH_SIZE):
        with torch.no_grad():
            model(tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
