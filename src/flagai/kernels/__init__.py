"""Faster equals of plain operations; without this package everything computes the same, in plain torch.

:mod:`flagai.model.layer.operation` is the door. README.md in this folder has a row for each operation.
"""

# Which modules register implementations, by the operation's name; imported at its first call.
MODULES: dict[str, tuple[str, ...]] = {
    "linear": ("cpu.linear",),
    "cached_blocks": ("decode.select", "decode.many_rows", "decode.rotary_block", "cpu.decode_block"),
    "prepare_decoding": ("decode.many_rows", "decode.rotary_block"),
    "search_step": ("decode.search_steps",),
    "scaled_dot_product_attention": ("packed.attention",),
    "paged_attention": ("paged.attention", "cpu.paged_attention"),
    "add_norm": ("packed.add_norm",),
    "compile_blocks": ("compiled.blocks",),
    "quantized_linear": ("decode.quantized_ops", "cpu.quantized_linear"),
}
