"""The published models at full size: how many parameters they have, and every name and shape of their files.

The expected names are generated here from the specification of the formats (FORMATS.md, section 2), without a
look at the library's own tables.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.checkpoint.save import build
from flagai.model.bert_model import BertForMaskLM, BertModel
from flagai.model.glm_model import GLMModel
from flagai.model.gpt2_model import GPT2Model
from flagai.model.t5_model import T5Model
from tests import tiny

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "published_configs.json").read_text())
Shapes = dict[str, tuple[int, ...]]
MODELS = [
    ("GLM-large-ch", GLMModel, 355_659_776),
    ("GLM-large-en", GLMModel, 334_688_256),
    ("GLM-10b-ch", GLMModel, 9_879_633_920),
    ("RoBERTa-base-ch", BertModel, 102_267_648),
    ("RoBERTa-base-ch", BertForMaskLM, 102_882_442 - (2 * 768 + 2)),  # the head for next sentences is not ours
    ("BERT-base-en", BertModel, 109_482_240),
    ("BERT-base-en", BertForMaskLM, 110_106_428 - (2 * 768 + 2)),
    ("GPT2-base-ch", GPT2Model, 102_068_736),
    ("T5-base-ch", T5Model, 275_029_248),
    ("T5-base-en", T5Model, 222_903_552),
]
# name -> layers, hidden size, heads, max_sequence_length, vocabulary, parameters
THUDM = {
    "GLM-Base": (12, 768, 12, 512, 30592, 109_338_624),
    "GLM-Large": (24, 1024, 16, 512, 30592, 334_688_256),
    "GLM-Large-Chinese": (24, 1024, 16, 1024, 50048, 355_659_776),
    "GLM-Doc": (24, 1024, 16, 512, 30592, 334_688_256),
    "GLM-410M": (30, 1024, 16, 512, 30592, 410_265_600),
    "GLM-515M": (30, 1152, 18, 512, 30592, 514_632_960),
    "GLM-RoBERTa": (24, 1024, 16, 512, 50304, 354_873_344),
    "roberta-1.25": (24, 1152, 18, 1024, 50304, 442_879_488),
    "GLM-2B": (36, 2048, 32, 1024, 50304, 1_920_122_880),
    "GLM-10B": (48, 4096, 64, 1024, 50304, 9_880_682_496),
    "GLM-10B-Chinese": (48, 4096, 64, 1024, 50048, 9_879_633_920),
}


def on_meta(cls: Any, config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return cls(cls.config_class.from_dict(config))


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def written(model: Any, layout: str) -> Shapes:
    """Names and shapes of what ``save_pretrained`` would write."""
    return {name: tuple(build(sources).shape) for name, sources in model.save_plan(layout).items()}


# -- the specification -------------------------------------------------------------------------------------------------


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def glm_shapes(config: dict[str, Any], layout: str) -> Shapes:
    """The same names in both layouts."""
    width, rows = config["hidden_size"], config["max_sequence_length"] + 1
    shapes: Shapes = {
        "word_embeddings.weight": (config["vocab_size"], width),
        "transformer.position_embeddings.weight": (rows, width),
        "transformer.block_position_embeddings.weight": (rows, width),
        **norm("transformer.final_layernorm", width),
    }
    for i in range(config["num_layers"]):
        layer = f"transformer.layers.{i}"
        shapes |= norm(f"{layer}.input_layernorm", width) | norm(f"{layer}.post_attention_layernorm", width)
        shapes |= linear(f"{layer}.attention.query_key_value", 3 * width, width)
        shapes |= linear(f"{layer}.attention.dense", width, width)
        shapes |= linear(f"{layer}.mlp.dense_h_to_4h", 4 * width, width)
        shapes |= linear(f"{layer}.mlp.dense_4h_to_h", width, 4 * width)
    return shapes


def bert_shapes(config: dict[str, Any], layout: str) -> Shapes:
    """The backbone without a prefix. FlagAI stacks query, key and value."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
        **norm("embeddings.LayerNorm", width),
        **linear("pooler.dense", width, width),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        if layout == "flagai":
            shapes |= linear(f"{layer}.attention.self.query_key_value", 3 * width, width)
        else:
            for part in ("query", "key", "value"):
                shapes |= linear(f"{layer}.attention.self.{part}", width, width)
        shapes |= linear(f"{layer}.attention.output.dense", width, width)
        shapes |= norm(f"{layer}.attention.output.LayerNorm", width) | norm(f"{layer}.output.LayerNorm", width)
        shapes |= linear(f"{layer}.intermediate.dense", inner, width) | linear(f"{layer}.output.dense", width, inner)
    return shapes


def bert_mask_shapes(config: dict[str, Any], layout: str) -> Shapes:
    """FlagAI writes the tied decoder out; for Hugging Face it is the embeddings, and the bias has two names."""
    width, vocab = config["hidden_size"], config["vocab_size"]
    prefix = {"flagai": "model.", "huggingface": "bert."}[layout]
    head = "cls.predictions"
    return {
        **{prefix + name: shape for name, shape in bert_shapes(config, layout).items()},
        **linear(f"{head}.transform.dense", width, width),
        **norm(f"{head}.transform.LayerNorm", width),
        f"{head}.decoder.bias": (vocab,),
        **({f"{head}.decoder.weight": (vocab, width)} if layout == "flagai" else {f"{head}.bias": (vocab,)}),
    }


def gpt2_shapes(config: dict[str, Any], layout: str) -> Shapes:
    """Matrices lie as [in, out] in both layouts, because FlagAI transposes whatever it loads.

    No ``lm_head.weight``: the original's state dict has one that nothing reads.
    """
    width, inner = config["n_embd"], config["n_inner"] or 4 * config["n_embd"]
    shapes: Shapes = {
        "transformer.wte.weight": (config["vocab_size"], width),
        "transformer.wpe.weight": (config["n_positions"], width),
        **norm("transformer.ln_f", width),
    }
    for i in range(config["n_layer"]):
        layer = f"transformer.h.{i}"
        shapes |= norm(f"{layer}.ln_1", width) | norm(f"{layer}.ln_2", width)
        for name, into, out in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            shapes |= {f"{layer}.{name}.weight": (into, out), f"{layer}.{name}.bias": (out,)}
    return shapes


def t5_shapes(config: dict[str, Any], layout: str) -> Shapes:
    """FlagAI's loader asks for the shared embeddings three times, and always for a head."""
    width, table = config["d_model"], (config["vocab_size"], config["d_model"])
    shapes: Shapes = {"shared.weight": table}
    if layout == "flagai":
        shapes |= {"encoder.embed_tokens.weight": table, "decoder.embed_tokens.weight": table}
    if layout == "flagai" or config.get("tie_word_embeddings") is False:
        shapes |= {"lm_head.weight": table}
    for stack, layers in (("encoder", config["num_layers"]), ("decoder", config["num_layers"])):
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        shapes |= {bias: (config["relative_attention_num_buckets"], config["num_heads"])}
        shapes |= {f"{stack}.final_layer_norm.weight": (width,)}
        for i in range(layers):
            shapes |= dict(t5_layer(f"{stack}.block.{i}.layer", stack == "decoder", config))
    return shapes


def t5_layer(block: str, decoder: bool, config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, heads, inner = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    attentions = ["SelfAttention", "EncDecAttention"] if decoder else ["SelfAttention"]
    for number, attention in enumerate(attentions):
        yield from ((f"{block}.{number}.{attention}.{part}.weight", (heads, width)) for part in "qkv")
        yield f"{block}.{number}.{attention}.o.weight", (width, heads)
        yield f"{block}.{number}.layer_norm.weight", (width,)
    last = f"{block}.{len(attentions)}"
    for name in ("wi_0", "wi_1") if config["feed_forward_proj"] == "gated-gelu" else ("wi",):
        yield f"{last}.DenseReluDense.{name}.weight", (inner, width)
    yield f"{last}.DenseReluDense.wo.weight", (width, inner)
    yield f"{last}.layer_norm.weight", (width,)


SHAPES = {
    GLMModel: glm_shapes,
    BertModel: bert_shapes,
    BertForMaskLM: bert_mask_shapes,
    GPT2Model: gpt2_shapes,
    T5Model: t5_shapes,
}


@pytest.mark.parametrize(("name", "cls", "parameters"), MODELS)
def test_published_models(name: str, cls: Any, parameters: int) -> None:
    model = on_meta(cls, PUBLISHED[name])
    assert count(model) == parameters
    for layout in ("flagai", "huggingface"):
        assert written(model, layout) == SHAPES[cls](PUBLISHED[name], layout)


@pytest.mark.parametrize("name", THUDM)
def test_thudm_series(name: str) -> None:
    layers, width, heads, positions, vocab, parameters = THUDM[name]
    config = {"num_layers": layers, "hidden_size": width, "num_attention_heads": heads, "vocab_size": vocab}
    assert count(on_meta(GLMModel, {**config, "max_sequence_length": positions})) == parameters


# -- the original's own state dicts ------------------------------------------------------------------------------------


REFERENCE = json.loads((GOLDEN / "state_dict_keys.json").read_text())


@pytest.mark.parametrize("entry", REFERENCE["state_dicts"])
def test_names_of_the_original(entry: str) -> None:
    """What we write for FlagAI is what FlagAI's own class holds in memory, but for what is listed here."""
    family, name = entry.split(":")
    heads = {"class_num": 7, "inner_dim": 4} if family in ("bert", "glm") else {}
    model = on_meta(tiny.CLASSES[name], {**REFERENCE["configs"][family], **heads})
    wanted = {key: tuple(shape) for key, shape in REFERENCE["state_dicts"][entry].items()}
    if name == "GLMForMultiTokenClozeFast":  # FlagAI's loader drops the prefix, the other cloze classes have none
        wanted = {key.removeprefix("model."): shape for key, shape in wanted.items()}
    if family == "gpt2":
        del wanted["lm_head.weight"]  # drawn and saved, but never read: the logits come from wte
        # In memory FlagAI has [out, in]; its loader expects and transposes [in, out].
        conv1d = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
        wanted = {key: shape[::-1] if key.endswith(conv1d) else shape for key, shape in wanted.items()}
    assert written(model, "flagai") == wanted


# -- real files of full size -------------------------------------------------------------------------------------------


@torch.no_grad()
def written_and_read(cls: Any, name: str, dtype: torch.dtype, folder: Path) -> Any:
    """A random model of full size, written by one object and read by another."""
    model = on_meta(cls, PUBLISHED[name]).to(dtype).to_empty(device="cpu")
    model.init_weights()
    model.save_pretrained(folder, max_shard_size="300MB")
    loaded = cls.from_pretrain(folder.parent, folder.name)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    for (key, wanted), (_, found) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(found, wanted), key
    return loaded


@pytest.mark.slow
@torch.no_grad()
def test_glm_large_is_written_read_and_stepped(tmp_path: Path) -> None:
    model = written_and_read(GLMModel, "GLM-large-ch", torch.float16, tmp_path / "GLM-large-ch")
    tokens = tiny.ids(50000, 1, 9)
    positions = torch.stack([torch.arange(9).clamp(max=6), (torch.arange(9) - 6).clamp(min=0)])[None]
    whole = model(tokens, positions, torch.tensor([7]))["logits"]
    cache = model.new_cache(16)
    context = model(tokens[:, :7], positions[..., :7], torch.tensor([7]), cache=cache)["logits"]
    steps = [
        model(tokens[:, i : i + 1], positions[..., i : i + 1], torch.tensor([0]), cache=cache)["logits"] for i in (7, 8)
    ]
    torch.testing.assert_close(torch.cat([context, *steps], dim=1), whole, atol=2e-2, rtol=2e-2)


@pytest.mark.slow
@torch.no_grad()
def test_bert_base_is_written_and_read(tmp_path: Path) -> None:
    model = written_and_read(BertForMaskLM, "BERT-base-en", torch.float32, tmp_path / "BERT-base-en")
    tokens = tiny.ids(30522, 1, 9)
    cache = model.model.new_cache(16)
    matrix = torch.ones(1, 9, 9).tril()
    whole = model(tokens, attention_mask=matrix)["logits"]
    steps = [
        model(tokens[:, i : i + 1], attention_mask=matrix[:, i : i + 1, : i + 1], cache=cache)["logits"]
        for i in range(9)
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-4, rtol=1e-4)
