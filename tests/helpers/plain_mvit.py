"""A second, plain implementation of MViT: one token sequence, class token first, as papers and PySlowFast define it.

It reads the parameters of a `videovit.models.MViT` by name and shares no code with it.
"""

import torch
import torch.nn.functional as F


def norm(x, layer):
    return F.layer_norm(x, (x.shape[-1],), layer.weight, layer.bias, layer.eps)


def to_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # B M N D


def pool(x_BMND, grid, num_cls, kernel, stride, mode, conv):
    """Pool the grid of every head; the class token stays as it is."""
    cls, x = x_BMND[:, :, :num_cls], x_BMND[:, :, num_cls:]
    B, M, _, D = x.shape
    x = x.reshape(B * M, *grid, D).permute(0, 4, 1, 2, 3)
    padding = [k // 2 for k in kernel]
    if mode == "conv":
        x = F.conv3d(x, conv.weight, None, stride, padding, 1, D)
    else:
        x = (F.max_pool3d if mode == "max" else F.avg_pool3d)(x, kernel, stride, padding)
    grid = tuple(x.shape[2:])
    return torch.cat([cls, x.flatten(2).transpose(1, 2).reshape(B, M, -1, D)], dim=2), grid


def offsets(table, num_q, num_k):
    """Rows of a relative table for all pairs, by the published formula, one pair at a time."""
    length = 2 * max(num_q, num_k) - 1
    if table.shape[0] != length:
        table = F.interpolate(table.t()[None], size=length, mode="linear")[0].t()
    q_step, k_step = max(num_k / num_q, 1.0), max(num_q / num_k, 1.0)
    index = [[int(i * q_step - j * k_step + (num_k - 1) * k_step) for j in range(num_k)] for i in range(num_q)]
    return table[torch.tensor(index)]


def relative(attn, q, q_grid, k_grid, num_cls):
    """Terms to add to the scores, zero for the class token."""
    B, M, _, D = q.shape
    q_grid_tokens = q[:, :, num_cls:].reshape(B, M, *q_grid, D)
    scores = q.new_zeros(B, M, *q_grid, *k_grid)
    for axis, (letters, name) in enumerate(zip(("tu", "hu", "wu"), ("t", "h", "w"), strict=True)):
        table = getattr(attn, f"rel_pos_{name}")
        if table is not None:
            rows = offsets(table, q_grid[axis], k_grid[axis])
            term = torch.einsum(f"bmthwd,{letters}d->bmthwu", q_grid_tokens, rows)
            shape = [1, 1, 1]
            shape[axis] = k_grid[axis]
            scores = scores + term.reshape(B, M, *q_grid, *shape)
    scores = scores.flatten(5, 7).flatten(2, 4)
    return F.pad(scores, (num_cls, 0, num_cls, 0))


def attention(attn, x, grid, num_cls):
    spec, heads = attn.spec, attn.spec.num_heads
    if hasattr(attn, "qkv"):
        q, k, v = F.linear(x, attn.qkv.weight, attn.qkv.bias).chunk(3, dim=-1)
    else:
        q, k, v = (F.linear(x, p.weight, p.bias) for p in (attn.q, attn.k, attn.v))
    q, k, v = (to_heads(t, heads) for t in (q, k, v))
    q_grid = k_grid = grid
    if spec.pools_q:
        q, q_grid = pool(q, grid, num_cls, spec.kernel_q, spec.stride_q, attn.mode, attn.pool_q)
        q = q if attn.norm_q is None else norm(q, attn.norm_q)
    if spec.pools_kv:
        k, k_grid = pool(k, grid, num_cls, spec.kernel_kv, spec.stride_kv, attn.mode, attn.pool_k)
        v, _ = pool(v, grid, num_cls, spec.kernel_kv, spec.stride_kv, attn.mode, attn.pool_v)
        k = k if attn.norm_k is None else norm(k, attn.norm_k)
        v = v if attn.norm_v is None else norm(v, attn.norm_v)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + relative(attn, q, q_grid, k_grid, num_cls)
    out = scores.softmax(-1) @ v
    if attn.residual_pooling:
        out = out + F.pad(q[:, :, num_cls:], (0, 0, num_cls, 0))
    out = out.transpose(1, 2).flatten(2)
    return F.linear(out, attn.proj.weight, attn.proj.bias), q_grid


def pool_skip(x, grid, num_cls, stride):
    if tuple(stride) == (1, 1, 1):
        return x
    kernel = [s + 1 if s > 1 else s for s in stride]
    return pool(x[:, None], grid, num_cls, kernel, stride, "max", None)[0][:, 0]


def block_output(block, x, grid, num_cls):
    in_attention = block.proj is not None and block.spec.dim_attention == block.spec.dim_out
    normed = norm(x, block.norm1)
    out, new_grid = attention(block.attn, normed, grid, num_cls)
    skip = F.linear(normed, block.proj.weight, block.proj.bias) if in_attention else x
    x = pool_skip(skip, grid, num_cls, block.spec.stride_q) + out
    normed = norm(x, block.norm2)
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    mlp = F.linear(F.gelu(F.linear(normed, fc1.weight, fc1.bias)), fc2.weight, fc2.bias)
    if block.proj is not None and not in_attention:
        x = F.linear(normed, block.proj.weight, block.proj.bias)
    return x + mlp, new_grid


def plain_logits(model, x_BCTHW):
    """Logits of `model` in evaluation mode, at the clip size of its tables."""
    patch = model.patch_embed.proj
    x = F.conv3d(x_BCTHW, patch.weight, patch.bias, patch.stride, patch.padding)
    grid, num_cls = tuple(x.shape[2:]), 0 if model.cls_token is None else 1
    x = x.flatten(2).transpose(1, 2)
    if num_cls:
        x = torch.cat([model.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
    if model.pos_embed is not None:
        x = x + model.pos_embed
    elif model.pos_embed_spatial is not None:
        T, N = grid[0], grid[1] * grid[2]
        table = model.pos_embed_spatial.repeat(1, T, 1) + model.pos_embed_temporal.repeat_interleave(N, dim=1)
        x = x + (torch.cat([model.pos_embed_class, table], dim=1) if num_cls else table)
    if model.norm_stem is not None:
        x = norm(x, model.norm_stem)
    for block in model.blocks:
        x, grid = block_output(block, x, grid, num_cls)
    if model.mean_pooling:
        features = norm(x[:, num_cls:].mean(1), model.norm)
    else:
        x = norm(x, model.norm)
        features = x[:, 0] if num_cls else x.mean(1)
    return F.linear(features, model.head.projection.weight, model.head.projection.bias)
