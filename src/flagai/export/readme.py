"""The README of an exported folder: inputs, outputs, and an example for the family."""

import re
from collections.abc import Sequence

from flagai.export.graphs import BertGraph, DecoderStep, GLMClassifier, Graph, SentenceGraph
from flagai.export.ports import Port

FILE = "README.md"
_OPEN = """\
import numpy as np
import onnxruntime
from flagai.data.tokenizer import Tokenizer

folder = "."  # where this file is
tokenizer = Tokenizer.from_folder(folder)
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
"""
_ENCODE = """\
ids = np.array([tokenizer.encode_plus("今天天气很好。")["input_ids"]])
given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
"""
# A GPT-2 with BERT's vocabulary begins texts with [CLS].
_ENCODE_GPT2 = """\
from flagai.data.prepare.causal import prompts

ids = np.array([prompts(tokenizer, ["今天天气很好。"])[0].ids])
given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
"""
_ENCODE_GLM = """\
words = tokenizer.encode("今天天气很好。")
ids = np.array([[tokenizer.get_command_id("cls"), *words, tokenizer.get_command_id("eos")]])
"""
_GIVE_GLM = {
    GLMClassifier: """\
places = np.stack([np.arange(ids.shape[1]), np.zeros(ids.shape[1], np.int64)])[None]  # [:, 0] without block positions
given = {"input_ids": ids, "position_ids": places, "attention_mask": np.array([ids.shape[1]])}
""",
    SentenceGraph: 'given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}\n',
}
_RUN = """\
outputs = session.run(None, {port.name: given[port.name] for port in session.get_inputs()})
print({port.name: found.shape for port, found in zip(session.get_outputs(), outputs)})
"""
_VITERBI = '''

def viterbi(emissions, transitions):
    """The labels with the greatest sum of scores, of one text: [S, classes] and [classes, classes] -> [S]."""
    scores, history = emissions[0], []
    for emission in emissions[1:]:
        moved = scores[:, None] + transitions
        history.append(moved.argmax(0))
        scores = moved.max(0) + emission
    path = [scores.argmax()]
    for origin in reversed(history):
        path.append(origin[path[-1]])
    return path[::-1]


print(viterbi(outputs[0][0], outputs[1]))  # FlagAI's predictor takes no label but O for the first token, [CLS]
'''
_STEP = '''

kinds = {port.name: port for port in session.get_inputs()}
kept = [name for name in kinds if name.startswith("past_key_values")]


def empty():
    """The keys and values of no tokens."""
    dtype = np.float16 if "float16" in kinds[kept[0]].type else np.float32
    return [np.zeros((1, kinds[name].shape[1], 0, kinds[name].shape[3]), dtype) for name in kept]


def step(ids, places, mask, past):
    """The scores of the next token, and the keys and values of all tokens so far."""
    given = {"input_ids": np.array([ids]), "position_ids": places, "attention_mask": mask}
    logits, *present = session.run(None, given | dict(zip(kept, past)))
    return logits[0, -1], present
'''
_CONTINUE = '''

def generate(ids, end, count):
    """The most probable continuation: all tokens of the prompt at once, then one at a time."""
    new, written, past, seen = ids, [], empty(), 0
    while len(written) < count:
        total = seen + len(new)
        places = np.arange(seen, total)[None]
POSITIONS        scores, past = step(new, places, mask, past)
        new, seen = [int(scores.argmax())], total
        if new == [end]:
            break
        written += new
    return written


PROMPT
written = generate(prompt, end, 20)
print(tokenizer.decode(written))
'''
_FILL = '''

def generate(ids, count):
    """The most probable tokens for the mask: the prompt's tokens see each other, the written ones all before them."""
    start, end = tokenizer.get_command_id("sop"), tokenizer.get_command_id("eop")
    place, written = ids.index(tokenizer.get_command_id("mask")), []
    places = np.stack([np.arange(len(ids)), np.zeros(len(ids), np.int64)])[None]
    _, past = step(ids, places, np.ones((1, len(ids), len(ids)), np.int64), empty())
    new = start
    while len(written) < count:
        places = np.array([[[place], [len(written) + 1]]])  # in the text, where the mask is; inside of the blank
        mask = np.ones((1, 1, len(ids) + len(written) + 1), np.int64)
        scores, past = step([new], places, mask, past)
        new = int(scores.argmax())
        if new == end:
            break
        written.append(new)
    return written


prompt = [tokenizer.get_command_id("cls"), *tokenizer.encode("今天[MASK]。"), tokenizer.get_command_id("eos")]
written = generate(prompt, 20)
print(tokenizer.decode(written))
'''
_OF_GPT2 = {
    "POSITIONS": "        mask = np.ones((1, total), np.int64)\n",
    "PROMPT": "from flagai.data.prepare.causal import prompts\n\n"
    'prompt, end = [*prompts(tokenizer, ["今天"])[0].ids], tokenizer.token_end_id',
}
_BLOCKS = "        places = np.stack([places, np.zeros_like(places)], axis=1)  # no blanks: the second row is 0\n"
_CAUSAL = "        mask = np.tril(np.ones((1, total, total), np.int64))[:, seen:]  # each token sees those before it\n"
_OF_GLM = {
    "POSITIONS": _CAUSAL,
    "PROMPT": 'prompt, end = tokenizer.encode_plus("今天")["input_ids"], tokenizer.get_command_id("eop")',
}
_DECODER = """\
`position_ids` count from 0. `past_key_values.*` of the first call have 0 positions; the `present.*` of a call are those
of the next one. `total` is `past + sequence`.
"""


def example(graph: Graph) -> str:
    """Python that runs the graph on a text, in its folder."""
    glm = graph.model.config.family == "glm"
    if isinstance(graph, DecoderStep):
        return _OPEN + _STEP + _loop(graph, glm)
    encode = _ENCODE_GPT2 if graph.model.config.family == "gpt2" else _ENCODE
    encode = _ENCODE_GLM + _GIVE_GLM[type(graph)] if glm else encode
    crf = isinstance(graph, BertGraph) and "transitions" in graph.keys
    return _OPEN + encode + _RUN + (_VITERBI if crf else "")


def _loop(graph: Graph, glm: bool) -> str:
    """The loop that generates, in the form in which the class writes."""
    blocks = glm and graph.model.config.block_position_encoding
    if blocks and type(graph.model).__name__ == "GLMModel":
        return _FILL
    loop = _CONTINUE
    for place, lines in (_OF_GLM if glm else _OF_GPT2).items():
        loop = loop.replace(place, lines + _BLOCKS if blocks and lines is _CAUSAL else lines)
    return loop


def readme(graph: Graph, name: str, facts: Sequence[str]) -> str:
    """The text of the file.

    Args:
        graph: what is exported.
        name: the name of the model.
        facts: sentences on how it was exported and compared.
    """
    parts = [
        f"# {name} for ONNX Runtime",
        " ".join(facts),
        "## Inputs\n\n" + _table(graph.inputs),
        "## Outputs\n\n" + _table(graph.outputs),
    ]
    if isinstance(graph, DecoderStep):
        parts.append(_DECODER.strip())
    if isinstance(graph, SentenceGraph):
        parts.append(_of_sentences(graph))
    parts.append(f"## Example\n\n```python\n{example(graph)}```")
    return "\n\n".join(parts) + "\n"


def _table(ports: Sequence[Port]) -> str:
    # One row for all layers.
    named = {re.sub(r"\.\d+\.", ".*.", port.name): port for port in ports}
    rows = [f"| `{name}` | {port.shape} | {port.meaning} |" for name, port in named.items()]
    return "\n".join(["| name | shape | meaning |", "|---|---|---|", *rows])


def _of_sentences(graph: SentenceGraph) -> str:
    """What of the folder's settings happens before the graph."""
    settings = graph.settings
    lines = ["Pooling, projections and scaling are in the graph; texts are padded on the right. Before it:"]
    lines += [f"- read at most {settings.max_length} tokens"] * (settings.max_length is not None)
    lines += ["- write texts in lower case"] * settings.lower
    lines += [f"- prompt {key!r}: put {text!r} before a text" for key, text in settings.prompts.items()]
    return "\n".join([*lines, f"Compare vectors by {settings.similarity}."])
