"""Attention to a paged cache on a GPU: one kernel over slot tables, and one more that joins parts of few tokens."""

from typing import Any, NamedTuple

import torch

from flagai.kernels import hardware
from flagai.kernels.hardware import SM_COUNT, next_power_of_2, pdl_options
from flagai.model.layer.paged_attention import SlotTable, paged_attention

_DTYPES = (torch.float32, *hardware.HALF)
_MAX_HEAD = 256
# Programs that a GPU should have at least; with fewer, the keys of a token are split ...
_PROGRAMS = 4 * SM_COUNT
# ... but no program has fewer places of the table than this.
_LEAST_PLACES = 128


class AttentionTile(NamedTuple):
    """How the work is cut into programs.

    Args:
        heads: heads of a token that a program computes, a power of two.
        depth: keys that a thread has under way at once.
        warps: warps of a program.
        stages: loop iterations that the compiler overlaps.
        splits: programs among which the keys of a token are divided; None: as many as fill the GPU.
        lanes: tokens of a text that a program computes at most; 0: each by itself.
    """

    heads: int
    depth: int
    warps: int
    stages: int = 1
    splits: int | None = None
    lanes: int = 0


_Tiles = tuple[tuple[int, AttentionTile], ...]
# By the least number of tokens, the largest first.
TILES: _Tiles = ((128, AttentionTile(16, 4, 4, 3, 1)), (32, AttentionTile(4, 4, 4, 2, 2)), (0, AttentionTile(1, 4, 8)))
# Where heads or the tokens of a text share keys: ``depth`` keys at once. By the least number of programs.
SHARED_TILES: _Tiles = ((_PROGRAMS, AttentionTile(1, 32, 2, 2, lanes=4)), (0, AttentionTile(1, 64, 4, 2, lanes=4)))


def _suits(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: SlotTable,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> bool:
    """Whether the kernels compute this attention."""
    heads, width = query.shape[1:]
    return (
        not torch.is_grad_enabled()
        and hardware.has_triton(query.device)
        and query.dtype in _DTYPES
        and query.dtype is keys.dtype is values.dtype
        and query.stride()[1:] == (width, 1)
        and width <= _MAX_HEAD
        and heads % keys.shape[1] == 0
        and keys.is_contiguous()
        and values.is_contiguous()
        and all(part.dtype is torch.int32 and part.is_contiguous() for part in (table.slots, table.lengths))
    )


@paged_attention.faster(_suits)
def paged_attention_triton(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: SlotTable,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Each key and value is read once, where it lies, [T, H, D] -> [T, H, D]."""
    heads, shared = query.shape[1], keys.shape[1]
    if table.lanes > 1 or heads != shared:
        tiles, count = SHARED_TILES, len(query) // min(table.lanes, SHARED_TILES[0][1].lanes) * shared
    else:
        tiles, count = TILES, len(query)
    tile = next(tile for least, tile in tiles if count >= least)
    return attend(query, keys, values, table, tile, bias=bias, scale=scale)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: SlotTable,
    tile: AttentionTile,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    pdl: bool = True,
) -> torch.Tensor:
    """Paged attention with the work cut as asked; see :func:`paged_attention`."""
    from flagai.kernels.triton.paged_attention import paged_attention_kernel, shared_attention_kernel

    (count, heads, width), size = query.shape, next_power_of_2(max(16, query.shape[2]))
    out, queries = query.new_empty(count, heads, width), count
    if not tile.lanes:
        kernel: Any = paged_attention_kernel
        # Threads read 16 bytes each.
        pairs = max(1, 512 * tile.warps // (size * query.element_size()))
        wide = min(tile.heads, pairs, next_power_of_2(heads))
        programs = -(-heads // wide)
        cut = {"HEADS": wide, "LANES": pairs // wide, "DEPTH": tile.depth}
    else:
        kernel, programs = shared_attention_kernel, keys.shape[1]
        group, lanes = heads // programs, min(tile.lanes, table.lanes)
        cut = {"GROUP": group, "LANES": lanes, "BG": next_power_of_2(max(16, group * lanes)), "STEP": tile.depth}
        cut["TEXT"] = table.lanes
        queries = count // table.lanes * -(-table.lanes // lanes)
    splits = tile.splits or _splits(queries * programs, table.slots.shape[1])
    totals = query.new_empty(splits, count * heads, width, dtype=torch.float32) if splits > 1 else None
    stats = query.new_empty(splits, 2, count * heads, dtype=torch.float32) if splits > 1 else None
    options = pdl_options(query.device, pdl)
    kernel[(programs, queries, splits)](
        query,
        keys,
        values,
        table.slots,
        table.lengths,
        None if bias is None else bias.contiguous(),
        out,
        totals,
        stats,
        width**-0.5 if scale is None else scale,
        query.stride(0),
        table.slots.shape[1],
        0 if bias is None else bias.shape[1],
        count * heads,
        BIAS=bias is not None,
        SPLIT=splits > 1,
        H=heads,
        D=width,
        BD=size,
        STAGES=tile.stages,
        num_warps=tile.warps,
        **cut,
        **options,
    )
    if splits > 1:
        _join(totals, stats, out, options)
    return out


def _splits(programs: int, places: int) -> int:
    """Among how many programs the keys of a token are divided: decided by shapes, lengths are on the device."""
    return max(1, min(_PROGRAMS // max(programs, 1), -(-places // _LEAST_PLACES)))


def _join(totals: torch.Tensor | None, stats: torch.Tensor | None, out: torch.Tensor, options: dict[str, Any]) -> None:
    """Join the parts of every head."""
    from flagai.kernels.triton.paged_attention import join_splits_kernel

    rows, width = out.shape[0] * out.shape[1], out.shape[2]
    splits = 1 if totals is None else len(totals)
    sizes = {"D": width, "BD": next_power_of_2(width), "BS": next_power_of_2(splits)}
    join_splits_kernel[(rows,)](totals, stats, out, splits, rows, **sizes, num_warps=1, **options)
