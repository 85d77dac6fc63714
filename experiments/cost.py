"""What a training step costs: floating-point operations and memory, as formulas.

N is the number of weights that multiply each token in the blocks, E those of the unembedding,
R those of the adapter. A product of a token with a weight is 2 operations; backward costs the
same again for the activations, and once more for weights that are trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from lpa_interp.batches import TraitBatch
from lpa_interp.config import TrainConfig
from lpa_interp.model import HookedTransformer
from lpa_interp.packing import TREE_TOKENS, shared_start, tree_size


@dataclass(frozen=True, slots=True)
class Size:
    """Of a model: weights in the blocks (N), in the unembedding (E) and in the adapter (R)."""

    blocks: int
    unembedding: int
    adapter: int
    n_layers: int
    d_attention: int


@dataclass(frozen=True, slots=True)
class Positions:
    """Of a batch: ``run`` positions in the blocks, ``read`` ones unembedded, row length."""

    run: int
    read: int
    row: int


def model_size(model: HookedTransformer, config: TrainConfig) -> Size:
    """Counts a model's weights."""
    cfg = model.cfg
    assert cfg.d_mlp is not None
    wide, narrow = cfg.n_heads * cfg.d_head, (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    shapes = {
        "q": (cfg.d_model, wide),
        "k": (cfg.d_model, narrow),
        "v": (cfg.d_model, narrow),
        "o": (wide, cfg.d_model),
        "up": (cfg.d_model, cfg.d_mlp),
        "down": (cfg.d_mlp, cfg.d_model),
        "gate": (cfg.d_model, cfg.d_mlp),
    }
    if not cfg.gated_mlp:
        del shapes["gate"]
    weights = sum(d_in * d_out for d_in, d_out in shapes.values())
    low_rank = sum(sum(shapes[role]) for role in config.lora_targets) * config.lora_rank
    return Size(
        blocks=cfg.n_layers * weights,
        unembedding=cfg.d_model * cfg.d_vocab,
        adapter=cfg.n_layers * low_rank,
        n_layers=cfg.n_layers,
        d_attention=wide,
    )


def positions(batch: TraitBatch, plain: bool = False) -> Positions:
    """Positions of the packed pass: the prompt once, then every answer but its last token.

    ``plain`` is for a batch that nothing perturbs: its examples share the start of their prompts.
    """
    n_answers, n_batch, n_answer = batch.answers.shape
    n_prompt = batch.prompt.shape[1]
    answers = int(batch.answer_mask[..., :-1].sum(2).amax(1).sum())
    read = n_batch * n_answers * n_answer
    n_shared = shared_start(batch.prompt, batch.prompt_mask) if plain else 0
    size = tree_size(n_batch)
    if size > 1 and n_shared >= TREE_TOKENS:
        row = n_shared + size * (n_prompt - n_shared + answers)
        return Positions(run=n_batch // size * row, read=read, row=row)
    return Positions(run=n_batch * (n_prompt + answers), read=read, row=n_prompt + answers)


def forward_flops(size: Size, at: Positions) -> float:
    """2 N T + 2 E L + 4 T t d: blocks, unembedding, attention over rows of t positions."""
    attention = 4 * size.n_layers * size.d_attention * at.row * at.run
    return 2 * size.blocks * at.run + 2 * size.unembedding * at.read + attention


def attack_iteration_flops(size: Size, at: Positions) -> float:
    """Forward and backward with frozen weights: 4 N T + 4 E L + 12 T t d."""
    attention = 4 * size.n_layers * size.d_attention * at.row * at.run
    return 2 * forward_flops(size, at) + attention


def update_flops(size: Size, at: Positions) -> float:
    """One backward pass of the adapter: an attack iteration and 6 R T."""
    return attack_iteration_flops(size, at) + 6 * size.adapter * at.run


def step_flops(size: Size, attacked: Positions, retained: Positions, config: TrainConfig) -> float:
    """K attack iterations, U updates on both batches, and the passes that only measure."""
    attack = config.pgd_steps * attack_iteration_flops(size, attacked)
    updates = update_flops(size, attacked) + update_flops(size, retained)
    measured = 2.5 * forward_flops(size, attacked) + forward_flops(size, retained)
    return attack + config.updates_per_step * updates + measured


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that the two halves of a step hold at once."""

    attack: float
    update: float

    @property
    def peak(self) -> float:
        """The larger of the two."""
        return max(self.attack, self.update)


def memory(size: Size, at: Positions, d_model: int, d_mlp: int, d_vocab: int, width: int) -> Memory:
    """Memory of a step where numbers of the model have ``width`` bytes.

    Kept for the gradient, per position and layer: about 6 d_model + 2 d_mlp numbers in the attack
    and 10 d_model + 3.5 d_mlp in an update, and three times the logits in float32 (measured with
    saved-tensor hooks). The attack also holds the merged copies of the adapted weights, at most
    as much as the blocks; the update the gradient and AdamW's two moments of the adapter.
    """
    weights = width * (size.blocks + 2 * size.unembedding) + 4 * size.adapter
    logits = 3 * 4 * at.read * d_vocab
    per_layer = width * size.n_layers * at.run
    attack = weights + width * size.blocks + per_layer * (6 * d_model + 2 * d_mlp) + logits
    update = weights + 12 * size.adapter + per_layer * (10 * d_model + 3.5 * d_mlp) + logits
    return Memory(attack, update)
