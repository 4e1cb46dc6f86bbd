"""Folders of tokenizers as transformers writes them, now and before version 5, with every documented key varied."""

import functools
import json
import random
from pathlib import Path
from typing import Any

import tokenizers
import transformers

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the dog barks.",
    "Hello world! It's a new day; isn't it?",
    "naïve café in São Paulo costs 15 euros",
    "今天天气不错，我们去吃饭吧。",
    "low lower lowest new newer newest wide wider widest",
]
WORDS = [
    "the",
    "fox",
    "Hello",
    "world",
    "it's",
    "isn't",
    "naïve",
    "Café",
    "ÀÉ",
    "今天",
    "天气。",
    "newest",
    "15",
    "😀",
    "Σ",
]
NEW = ["[E1]", "[/E1]", "<ent>", "newword", "新词", "Big Word", "<|x|>", "[MASK2]", "é"]
SEPARATORS = ["", " ", " ", "  ", "\n", ", ", ". ", " , "]


@functools.cache
def byte_level() -> tuple[dict[str, int], list[str]]:
    """A small byte-level vocabulary and its merges."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(CORPUS * 3, trainer)
    content = json.loads(model.to_str())["model"]
    merges = [entry if isinstance(entry, str) else " ".join(entry) for entry in content["merges"]]
    return content["vocab"], merges


@functools.cache
def unigram() -> list[tuple[str, float]]:
    """A small vocabulary of T5: <pad>, </s>, <unk>, pieces."""
    characters = sorted({char for text in CORPUS for char in text if not char.isspace()})
    words = sorted({f"▁{word}" for text in CORPUS for word in text.split()})
    pieces = [("▁", -2.0), *((char, -5.0) for char in characters), *((word, -3.0) for word in words)]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces]


def wordpiece(special: list[str], chinese: bool) -> list[str]:
    """A small vocabulary of BERT."""
    characters = sorted({char for text in CORPUS for char in text.lower() + text if not char.isspace()})
    characters = [char for char in characters if chinese or char < "\u2e80"]
    words = ["the", "fox", "hello", "world", "naive", "cafe", "Café", "new", "##est", "##er", "low", "[unused1]"]
    pieces = [*characters, *(f"##{char}" for char in characters if char < "\u2e80"), *words]
    return list(dict.fromkeys([*special, *pieces]))


class Variant:
    """One folder at random.

    Args:
        seed: chooses everything.
        folder: an empty folder.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.family = self.random.choice(["bert", "bert", "roberta", "gpt2", "t5"])
        self.layout = "fast" if self.family == "t5" else self.random.choice(["fast", "slow", "slow"])
        self.options: dict[str, Any] = {}
        self.special: dict[str, str] = {}
        self.new: list[str] = []
        self.chinese = self.random.random() < 0.5
        self._choose()
        getattr(self, f"_write_{self.layout}")()

    def text(self) -> str:
        """A text with words, odd blanks, special and added tokens."""
        pieces = [*WORDS, *WORDS, *NEW, *self.special.values(), *self.new, "<extra_id_0>", "<extra_id_7>"]
        parts = [self.random.choice(pieces) + self.random.choice(SEPARATORS) for _ in range(self.random.randint(0, 8))]
        return "".join(parts)

    def _maybe(self, name: str, *values: Any) -> None:
        if self.random.random() < 0.4:
            self.options[name] = self.random.choice(values)

    def _choose(self) -> None:
        for name, values in {
            "bert": {
                "do_lower_case": (True, False),
                "strip_accents": (True, False),
                "tokenize_chinese_chars": (True, False),
            },
            "roberta": {"add_prefix_space": (True, False), "trim_offsets": (True, False)},
            "gpt2": {"add_prefix_space": (True, False), "add_bos_token": (True, False)},
            "t5": {"extra_ids": (100, 10, 0)},
        }[self.family].items():
            self._maybe(name, *values)
        self._maybe("clean_up_tokenization_spaces", True, False)
        self._maybe("split_special_tokens", True, False)
        self._maybe("model_max_length", 512, int(1e30))
        self._maybe("padding_side", "left", "right")
        self._maybe("truncation_side", "left", "right")
        usual = {
            "bert": {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
            "roberta": {
                "cls": "<s>",
                "sep": "</s>",
                "bos": "<s>",
                "eos": "</s>",
                "unk": "<unk>",
                "pad": "<pad>",
                "mask": "<mask>",
            },
            "gpt2": {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
            "t5": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
        }[self.family]
        self.special = dict(usual)
        if self.family == "bert" and self.random.random() < 0.3:
            self.special |= {"cls": "<cls>", "sep": "<sep>"}
        if self.family == "gpt2" and self.random.random() < 0.3:
            self.special |= {"pad": "<pad>"}
        if self.random.random() < 0.6:
            self.new = self.random.sample(NEW, self.random.randint(1, 3))

    def _added(self, content: str, *, special: bool) -> dict[str, Any]:
        flags = {name: self.random.random() < 0.2 for name in ("lstrip", "rstrip", "single_word")}
        return {"content": content, **flags, "normalized": self.random.random() < 0.3, "special": special}

    def _tokenizer(self) -> Any:
        named = {f"{name}_token": token for name, token in self.special.items()}
        if self.family == "bert":
            tokens = wordpiece(list(self.special.values()), self.chinese)
            vocab = {token: number for number, token in enumerate(tokens)}
            return transformers.BertTokenizer(vocab=vocab, **named, **self.options)
        if self.family == "t5":
            count = self.options.get("extra_ids", 100)
            vocab = [*unigram(), *((f"<extra_id_{number}>", 0.0) for number in reversed(range(count)))]
            return transformers.T5Tokenizer(vocab=vocab, **named, **self.options)
        vocab, merges = self._byte_level()
        cls = transformers.RobertaTokenizer if self.family == "roberta" else transformers.GPT2Tokenizer
        return cls(vocab=vocab, merges=[tuple(pair.split(" ")) for pair in merges], **named, **self.options)

    def _byte_level(self) -> tuple[dict[str, int], list[str]]:
        vocab, merges = byte_level()
        tokens = sorted(vocab, key=vocab.__getitem__)
        tokens = [*tokens, *dict.fromkeys(self.special.values())]
        if self.family == "roberta":
            tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(vocab, key=vocab.__getitem__), "<mask>"]
        return {token: number for number, token in enumerate(tokens)}, merges

    def _write_fast(self) -> None:
        """What version 5 writes, and what people change in it."""
        tokenizer = self._tokenizer()
        for content in self.new:
            entry = tokenizers.AddedToken(**self._added(content, special=self.random.random() < 0.5))
            tokenizer.add_tokens([entry])
        if self.random.random() < 0.3:
            tokenizer.add_special_tokens({"extra_special_tokens": ["<ent>", "[E9]"]})
        tokenizer.save_pretrained(self.folder)
        path = self.folder / "tokenizer_config.json"
        content = json.loads(path.read_text())
        choice = self.random.random()
        if choice < 0.1:
            path.unlink()
            content = None
        elif choice < 0.2:
            content["tokenizer_class"] = "PreTrainedTokenizerFast"
        elif choice < 0.3:
            content["tokenizer_class"] += "Fast"
        elif choice < 0.4:
            del content["tokenizer_class"]
        elif choice < 0.5 and self.family == "bert":
            content["do_lower_case"] = not content.get("do_lower_case", True)
        if content is not None:
            path.write_text(json.dumps(content))
        self._write_config(len(tokenizer))

    def _write_slow(self) -> None:
        """What version 4 wrote beside a vocabulary."""
        if self.family == "bert":
            tokens = wordpiece(list(self.special.values()), self.chinese)
            (self.folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        else:
            vocab, merges = self._byte_level()
            tokens = list(vocab)
            (self.folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
            (self.folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        name = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer", "gpt2": "GPT2Tokenizer"}[self.family]
        config = {"tokenizer_class": name, **self.options}
        if self.random.random() < 0.2:
            del config["tokenizer_class"]
        named = {f"{name}_token": token for name, token in self.special.items()}
        numbers = {content: len(tokens) + index for index, content in enumerate(self.new)}
        how = self.random.choice(["decoder", "file", "file and map", "map"])
        changed = any(token not in ("<|endoftext|>", "<pad>") for token in self.special.values())
        if changed or self.random.random() < 0.5:
            config |= named
        if how == "decoder":
            known = {token: tokens.index(token) for token in self.special.values()} | numbers
            specials = set(self.special.values())
            config["added_tokens_decoder"] = {
                str(number): self._added(content, special=content in specials or self.random.random() < 0.5)
                for content, number in known.items()
            }
            if self.random.random() < 0.5:
                config["additional_special_tokens"] = self.new[:1]
        elif self.new and how.startswith("file"):
            (self.folder / "added_tokens.json").write_text(json.dumps(numbers))
        if how.endswith("map"):
            special = {key: self._named(value) for key, value in named.items()}
            if self.new and how == "file and map":
                special["additional_special_tokens"] = self.new[:1]
            (self.folder / "special_tokens_map.json").write_text(json.dumps(special))
        (self.folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        self._write_config(len(tokens) + len(self.new))

    def _named(self, content: str) -> Any:
        if self.random.random() < 0.5:
            return content
        entry = self._added(content, special=True)
        return {name: value for name, value in entry.items() if name != "special"}

    def _write_config(self, size: int) -> None:
        config = {"model_type": self.family, "vocab_size": size + self.random.choice([0, 3])}
        (self.folder / "config.json").write_text(json.dumps(config))
