"""The blocks of a HookedTransformer as few large operations, for passes that are run often.

TransformerLens computes each norm three times, masks and rotates at every layer, and adds
biases that are zero, so that every step has a hook point. Here only the hook points that carry
d_model along the residual stream are passed (`OUTER_HOOKS`); where a function is open on
another one, or the architecture needs what is not here, `can_fuse` says no and the caller runs
the model itself. The values are the same to rounding. Where the model computes in bfloat16 the
residual stream, and what is added to it, stay in float32: a small perturbation would vanish in
the rounding of the activation that it is added to.

Any tokens may attend to any others: ``allowed`` says which, so that several continuations of
one prompt share a pass without seeing each other.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import einops
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lpa_interp.model import HookedTransformer, HookPoint
from lpa_interp.projections import product_dtype, project

OUTER_HOOKS = (
    "hook_embed",
    "hook_resid_pre",
    "hook_attn_out",
    "hook_resid_mid",
    "hook_mlp_out",
    "hook_resid_post",
)
_INNER: WeakKeyDictionary[HookedTransformer, list[HookPoint]] = WeakKeyDictionary()


def can_fuse(model: HookedTransformer, n_positions: int) -> bool:
    """Whether the fused pass holds for this model, with the hooks that are open on it now."""
    cfg = model.cfg
    if cfg.positional_embedding_type != "rotary" or cfg.attention_dir != "causal":
        return False
    unusual = (
        cfg.attn_scores_soft_cap is not None and cfg.attn_scores_soft_cap > 0,
        cfg.use_attn_result or cfg.use_attn_in or cfg.use_split_qkv_input or cfg.use_hook_mlp_in,
        cfg.attn_only or cfg.parallel_attn_mlp or cfg.use_attention_sinks or cfg.use_logn_attn,
        cfg.normalization_type not in ("RMS", "LN") or cfg.use_normalization_before_and_after,
        cfg.clip_qkv is not None or cfg.use_dynamic_ntk_rope or cfg.ungroup_grouped_query_attention,
        bool(cfg.use_local_attn and cfg.window_size and n_positions > cfg.window_size),
        str(cfg.original_architecture).startswith("Olmo"),
        any(_kind(block.mlp) not in ("GatedMLP", "MLP") for block in model.blocks),
        cfg.is_layer_norm_activation(),
    )
    return not any(unusual) and not any(
        point.fwd_hooks or point.bwd_hooks for point in _inner_points(model)
    )


def _kind(module: nn.Module) -> str:
    """The name of TransformerLens' class; PyTorch renames the class of a module with adapters."""
    return type(module).__name__.removeprefix("Parametrized")


def _inner_points(model: HookedTransformer) -> list[HookPoint]:
    """The hook points that the fused pass does not go through."""
    if model not in _INNER:
        _INNER[model] = [
            point
            for name, point in model.hook_dict.items()
            if not name.startswith("ln_final")
            and (name.count(".") > 2 or name.rsplit(".", 1)[-1] not in OUTER_HOOKS)
        ]
    return _INNER[model]


def fused_resid(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    positions: Int[Tensor, "batch pos"],
    allowed: Bool[Tensor, "batch pos pos"],
    stop_at_layer: int | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last block, or before block ``stop_at_layer``.

    Args:
        model: A model for which `can_fuse` holds.
        tokens: Token ids, padding included.
        positions: Place of each token in its own sequence, for the rotary embedding.
        allowed: True where a query (second axis) may attend to a key (third axis).
        stop_at_layer: The first block that is not run; none runs all.
    """
    embedded = model.embed(tokens)
    wide = torch.promote_types(embedded.dtype, torch.float32)
    resid = model.hook_embed(embedded.to(wide))
    bias = _attention_bias(model, allowed, wide)
    turns, product = _turns(model, positions), product_dtype()
    for block in model.blocks[:stop_at_layer]:
        resid = block.hook_resid_pre(resid)
        turn = turns[block.attn.attn_type]
        attended = _attention(block.attn, _norm(block.ln1, resid, product), turn, bias)
        resid = block.hook_resid_mid(resid + block.hook_attn_out(attended))
        mixed = _mlp(block.mlp, _norm(block.ln2, resid, product))
        resid = block.hook_resid_post(resid + block.hook_mlp_out(mixed))
    return resid


def _attention_bias(
    model: HookedTransformer, allowed: Bool[Tensor, "batch pos pos"], dtype: torch.dtype
) -> Float[Tensor, "batch_groups queries pos"]:
    """0 where attention is allowed and -inf elsewhere, laid out as the folded scores are."""
    n_groups = model.cfg.n_key_value_heads or model.cfg.n_heads
    # A padded position attends to itself: a row of -inf would give NaN.
    itself = torch.eye(allowed.shape[-1], dtype=torch.bool, device=allowed.device)
    bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    bias.masked_fill_(~(allowed | itself), -torch.inf)
    return einops.repeat(
        bias, "b q k -> (b g) (r q) k", g=n_groups, r=model.cfg.n_heads // n_groups
    )


def _attention(
    attn: Any,
    x: Float[Tensor, "batch pos d_model"],
    turn: tuple[Tensor, Tensor],
    bias: Float[Tensor, "batch_groups queries pos"],
) -> Float[Tensor, "batch pos d_model"]:
    """Grouped-query attention of a row's tokens to each other."""
    return attend(attn, *queries_keys_values(attn, x, turn), bias)


def queries_keys_values(
    attn: Any, x: Float[Tensor, "batch pos d_model"], turn: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries and keys, and values, each [batch, pos, heads, d_head]."""
    grouped = hasattr(attn, "_W_K")
    k_name, v_name = ("_W_K", "_W_V") if grouped else ("W_K", "W_V")
    k_bias, v_bias = (attn._b_K, attn._b_V) if grouped else (attn.b_K, attn.b_V)
    d_head = attn.cfg.d_head
    q = project(attn, "W_Q", "q", x, attn.b_Q).unflatten(-1, (-1, d_head))
    k = project(attn, k_name, "k", x, k_bias).unflatten(-1, (-1, d_head))
    v = project(attn, v_name, "v", x, v_bias).unflatten(-1, (-1, d_head))
    if attn.cfg.use_qk_norm:
        q, k = _norm(attn.q_norm, q, q.dtype), _norm(attn.k_norm, k, k.dtype)
    return _rotate(attn, q, turn), _rotate(attn, k, turn), v


def attend(attn: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The attention's output [batch, pos, d_model].

    The query heads of a group are folded into its positions; ``bias`` is laid out as the scores
    [batch groups, heads pos, keys] are, or broadcasts to them.
    """
    n_groups, n_positions = k.shape[2], q.shape[1]
    q = einops.rearrange(q, "b t (g r) d -> (b g) (r t) d", g=n_groups)
    k = einops.rearrange(k, "b t g d -> (b g) d t")
    v = einops.rearrange(v, "b t g d -> (b g) t d")
    scores = torch.baddbmm(bias, q, k, alpha=1 / float(attn.attn_scale))
    z = scores.softmax(-1) @ v
    z = einops.rearrange(z, "(b g) (r t) d -> b t (g r d)", g=n_groups, t=n_positions)
    return project(attn, "W_O", "o", z, attn.b_O)


def _turns(
    model: HookedTransformer, positions: Int[Tensor, "batch pos"]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Cosines and sines of the positions for each kind of layer: kinds may differ in base."""
    turns = {}
    n_needed = int(positions.max()) + 1
    for attn in {block.attn.attn_type: block.attn for block in model.blocks}.values():
        if attn.rotary_cos.shape[0] < n_needed:
            attn._extend_rotary_embeddings(attn.cfg.n_ctx)
        cos, sin = attn.rotary_cos[positions], attn.rotary_sin[positions]
        turns[str(attn.attn_type)] = (cos[:, :, None], sin[:, :, None])
    return turns


def _rotate(
    attn: Any, x: Float[Tensor, "batch pos head d_head"], turn: tuple[Tensor, Tensor]
) -> Float[Tensor, "batch pos head d_head"]:
    """Rotary embedding (Su et al. 2021, arXiv 2104.09864), in both layouts of its pairs."""
    cos, sin = turn
    dim = attn.cfg.rotary_dim
    turned, rest = x[..., :dim], x[..., dim:]
    if attn.cfg.rotary_adjacent_pairs:
        flipped = torch.stack((-turned[..., 1::2], turned[..., ::2]), dim=-1).flatten(-2)
    else:
        flipped = torch.cat((-turned[..., dim // 2 :], turned[..., : dim // 2]), dim=-1)
    turned = turned * cos + flipped * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def _norm(norm: Any, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """RMSNorm in float32 whatever comes out (``dtype``); other norms by their own module."""
    if _kind(norm) != "RMSNorm" or norm.w.requires_grad:
        out: Tensor = norm(x.to(norm.w.dtype))
        return out
    normed: Tensor = _RmsNorm.apply(x, norm.w, norm.eps, dtype or norm.w.dtype)
    return normed


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) * w with its gradient in closed form: half the passes over memory.

    With s = 1 / rms(x) and h = grad * w the gradient of x is s (h - x s^2 mean(h x)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, w, scale)
        return (wide * scale).mul_(w).to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, w, scale = ctx.saved_tensors
        wide = x.to(scale.dtype)
        weighted = grad.to(scale.dtype) * w
        mean = torch.linalg.vecdot(weighted, wide)[..., None].div_(x.shape[-1])
        along = torch.addcmul(weighted, wide, mean.mul_(scale.square()), value=-1)
        return along.mul_(scale).to(x.dtype), None, None, None


def _mlp(mlp: Any, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
    if _kind(mlp) == "GatedMLP":
        gate = mlp.act_fn(project(mlp, "W_gate", "gate", x, None))
        hidden = gate * project(mlp, "W_in", "up", x, None)
        if mlp.b_in.any():  # TransformerLens adds one of zeros to models that have none
            hidden = hidden + mlp.b_in
    else:
        up = project(mlp, "W_in", "up", x, mlp.b_in)
        hidden = mlp.act_fn(up.to(torch.promote_types(up.dtype, torch.float32)))
    return project(mlp, "W_out", "down", hidden, mlp.b_out)
