"""Titles with 4 beams on a CPU: batches of 16 here, beside the one-by-one loop and transformers.

    python benchmarks/write.py [--texts 16] [--layers 12] [--threads 2] [--out results.json]

A GPT-2 with random weights (768 wide, vocabulary 21128), float32, continues prompts of 64 to 160 tokens by 24 tokens.
All contenders search with 4 beams and never stop early, so that they do the same work; their answers are compared.

    batch         flagai, all texts together
    one_by_one    flagai, one text at a time
    transformers  its beam search, one text at a time; transformers_batch: padded batches of all texts;
                  transformers_tuned: such a batch with a static cache, the forward pass compiled by torch.compile
    original      what FlagAI's predictor does: one text, no cache, every beam's whole text again at every step;
                  measured on two texts and scaled up
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from _measure import machine, versions

from flagai.generation import Decoding, Prompt, generate
from flagai.model.gpt2_model import GPT2Model

_VOCABULARY, _NEW, _BEAMS = 21128, 24, 4
_SLOW = {"original": 2}  # how many texts are enough
Answers = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", default="", help="contenders to leave out, with commas between")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, peer = make_models(options.layers)
    compiled = transformers.CompileConfig(mode="default")
    compiled._compile_all_devices = True  # generate() compiles on GPUs only, unless told
    tuned = {"cache_implementation": "static", "compile_config": compiled}
    chance = random.Random(0)
    prompts = [[chance.randrange(1, _VOCABULARY) for _ in range(chance.randint(64, 160))] for _ in range(options.texts)]
    contenders: dict[str, Callable[[], Answers]] = {
        "batch": lambda: ours(model, prompts),
        "one_by_one": lambda: [answer for prompt in prompts for answer in ours(model, [prompt])],
        "transformers": lambda: [answer for prompt in prompts for answer in theirs(peer, [prompt])],
        "transformers_batch": lambda: theirs(peer, prompts),
        "transformers_tuned": lambda: theirs(peer, prompts, **tuned),
        "original": lambda: [original(model, prompt) for prompt in prompts[: _SLOW["original"]]],
    }
    found: dict[str, Any] = {}
    answers: dict[str, Answers] = {}
    without = set(options.without.split(","))
    for name, run in ((name, run) for name, run in contenders.items() if name not in without):
        if name == "transformers_tuned":
            run()  # compiles
        begin, processor = time.perf_counter(), time.process_time()
        answers[name] = run()
        scale = len(prompts) / len(answers[name])
        found[name] = {
            "seconds": round((time.perf_counter() - begin) * scale, 2),
            "processor_seconds": round((time.process_time() - processor) * scale, 2),
            "different_answers": sum(a != b for a, b in zip(answers[name], answers["batch"], strict=False)),
        }
        faster = found[name]["processor_seconds"] / found["batch"]["processor_seconds"]
        print(f"{name:20}{found[name]['seconds']:8.2f} s {faster:6.2f} x the batch's processor time", flush=True)
    if options.out is not None:
        settings = {name: value for name, value in vars(options).items() if name not in ("out", "without")}
        report = {"settings": settings, "machine": machine(), "versions": versions(), "titles": found}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def make_models(layers: int) -> tuple[GPT2Model, Any]:
    """The same random model in both libraries."""
    config = transformers.GPT2Config(vocab_size=_VOCABULARY, n_layer=layers, bos_token_id=1, eos_token_id=None)
    peer = transformers.GPT2LMHeadModel(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        return GPT2Model.from_pretrained(folder, pad_token_id=None), peer


def ours(model: GPT2Model, prompts: Sequence[Sequence[int]]) -> Answers:
    """This library's beam search."""
    decoding = Decoding(max_new_tokens=_NEW, num_beams=_BEAMS)
    return [list(best[0].ids) for best in generate(model, [Prompt(tuple(prompt)) for prompt in prompts], decoding)]


@torch.inference_mode()
def theirs(peer: Any, prompts: Sequence[Sequence[int]], **tuned: Any) -> Answers:
    """The peer's beam search, with padding on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    options = {"max_new_tokens": _NEW, "num_beams": _BEAMS, "do_sample": False, "pad_token_id": 0}
    found = peer.generate(ids, attention_mask=real, early_stopping="never", length_penalty=0.0, **options, **tuned)
    return [row[width:].tolist() for row in found]


@torch.inference_mode()
def original(model: GPT2Model, prompt: Sequence[int]) -> list[int]:
    """A beam search without a cache: every step computes all beams from their first token."""
    beams, scores = torch.tensor([list(prompt)]), torch.zeros(1)
    for _ in range(_NEW):
        logits = model(beams)["logits"][:, -1].float()
        scores, best = (scores[:, None] + logits.log_softmax(-1)).flatten().topk(_BEAMS)
        beams = torch.cat([beams[best // _VOCABULARY], (best % _VOCABULARY)[:, None]], dim=1)
    return beams[0, len(prompt) :].tolist()


if __name__ == "__main__":
    main()
