"""Finding a tokenizer: names, folders, files that are absent, damaged or of another kind."""

import json
import subprocess
import sys

import pytest
import sentencepiece
import tokenizers
import transformers

from flagai.data.tokenizer import Tokenizer, jieba_engine
from flagai.errors import ConfigError, FlagAIError, HubError, ModelNotFoundError, VocabularyError
from tests import vocabularies
from tests.data.test_tokenizer_golden import golden


@pytest.mark.parametrize("name", ["RoBERTa-base-ch", "roberta-base-ch", "ROBERTA-BASE-CH"])
def test_names_in_any_case(home, name) -> None:
    assert Tokenizer.from_pretrained(name, cache_dir=home).encode("今天") == [791, 1921]


def test_folders_in_any_case(tmp_path) -> None:
    (vocabularies.put(tmp_path, "BERT-base-en") / "BERT-base-en").rename(tmp_path / "Mine")
    assert Tokenizer.from_pretrained("mine", cache_dir=tmp_path).kind == "wordpiece"


def test_the_home_of_models_is_the_default(home, monkeypatch) -> None:
    monkeypatch.setenv("FLAGAI_HOME", str(home))
    assert Tokenizer.from_pretrained("BERT-base-en", redundant=True).kind == "wordpiece"


def test_a_folder_in_place_of_a_name(home) -> None:
    assert Tokenizer.from_pretrained(str(home / "GLM-10b-ch")).get_command_id("gMASK") == 50007
    assert Tokenizer.from_pretrained("GLM-10b-ch", home / "GLM-10b-ch").get_command_id("gMASK") == 50007


@pytest.mark.parametrize(
    "name", ["GLM-large-ch-title-generation", "RoBERTa-base-ch-ner", "T5-base-ch-title-generation"]
)
def test_a_fine_tuned_model_has_its_bases_tokenizer(home, load, name) -> None:
    base = name.rpartition("-title")[0] or name.removesuffix("-ner")
    assert Tokenizer.from_pretrained(name, home).encode("今天吃饭") == load(base).encode("今天吃饭")


def test_a_fine_tuned_models_own_tokenizer_wins(tmp_path) -> None:
    vocabularies.put(tmp_path, "RoBERTa-base-ch")
    (tmp_path / "RoBERTa-base-ch-ner").mkdir()
    tokens = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n今\n"
    (tmp_path / "RoBERTa-base-ch-ner" / "vocab.txt").write_text(tokens)
    assert Tokenizer.from_pretrained("RoBERTa-base-ch-ner", tmp_path).encode("今") == [5]


def test_only_the_tokenizer_is_fetched(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("flagai.hub.ensure", fetched := Fetched())
    assert Tokenizer.from_pretrained("GLM-large-ch-poetry", tmp_path).encode("人") == [593]
    assert fetched.calls == [("GLM-large-ch", tmp_path / "GLM-large-ch", ("tokenizer",))]


class Fetched:
    def __init__(self) -> None:
        self.calls = []

    def __call__(self, card, folder, wanted):
        self.calls.append((card.name, folder, wanted))
        return vocabularies.put(folder.parent, folder.name) / folder.name


def test_offline_says_what_is_missing(tmp_path) -> None:
    with pytest.raises(HubError, match="offline"):
        Tokenizer.from_pretrained("GLM-large-ch", tmp_path)


def test_an_unknown_name_offers_the_nearest(tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match="GLM-large-ch"):
        Tokenizer.from_pretrained("GLM-larg-ch", tmp_path)


def test_an_empty_folder_says_what_was_expected(tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"vocab\.txt.*an empty folder"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"cog-pretrain\.model.*flagai download GLM-large-ch"):
        Tokenizer.from_folder(tmp_path, "GLM-large-ch")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("GLM-large-ch", "cog-pretrain.model"),
        ("T5-base-en", "spiece.model"),
        ("RoBERTa-base-ch", "vocab.txt"),
        ("GPT2-base-en", "vocab.json"),
        ("BERT-base-en", "tokenizer.json"),
        ("BERT-base-en", "tokenizer_config.json"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe damaged", b"{"])
def test_a_damaged_file_is_named(tmp_path, name, file, content) -> None:
    folder = vocabularies.put(tmp_path, name) / name
    (folder / file).write_bytes(content)
    with pytest.raises(VocabularyError, match=rf"{file}.*ownload it again|{file}.*Download them again"):
        Tokenizer.from_folder(folder)


def test_a_vocabulary_without_bytes_or_merges_is_noticed(tmp_path) -> None:
    folder = vocabularies.put(tmp_path, "GPT2-base-en") / "GPT2-base-en"
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(VocabularyError, match=r"merges\.txt has no merges"):
        Tokenizer.from_folder(folder)
    (folder / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(VocabularyError, match=r"vocab\.json lacks 255 of the 256 bytes"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("GLM-large-ch", "sentencepiece"), ("T5-base-en", "t5"), ("BERT-base-en", "wordpiece"), ("GPT2-base-en", "bpe")],
)
def test_files_decide_where_no_card_does(tmp_path, load, name, kind) -> None:
    folder = (vocabularies.put(tmp_path, name) / name).rename(tmp_path / "mine")
    tokenizer = Tokenizer.from_folder(folder)
    text = "今天 Hello [MASK] world"
    assert (tokenizer.kind, tokenizer.encode(text)) == (kind, load(name).encode(text))
    assert tokenizer.encode_plus("今天", "好") == load(name).encode_plus("今天", "好")


def test_a_configuration_tells_glm_from_gpt2(tmp_path) -> None:
    folder = (vocabularies.put(tmp_path, "GPT2-base-en") / "GPT2-base-en").rename(tmp_path / "mine")
    (folder / "config.json").write_text(json.dumps({"block_position_encoding": True}))
    assert Tokenizer.from_folder(folder).get_command_id("gMASK") == 50263


def test_the_vocabulary_tells_chinese_from_english(tmp_path) -> None:
    folder = (vocabularies.put(tmp_path, "RoBERTa-base-ch") / "RoBERTa-base-ch").rename(tmp_path / "mine")
    assert Tokenizer.from_folder(folder).decode([791, 1921]) == "今天"


def test_do_lower_case_is_honoured(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncafe\nCafé\n")
    assert Tokenizer.from_folder(tmp_path).tokenize("Café") == ["cafe"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer.from_folder(tmp_path).tokenize("Café") == ["Café"]


def test_a_token_that_is_there_twice_moves_no_other(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\nb\n")
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.encode("a b"), tokenizer.get_command_id("sop")) == ([6, 7], 8)


def test_an_added_token_beside_a_doubled_one_needs_its_id(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\nb\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert Tokenizer.from_folder(tmp_path).encode("a b") == [6, 7]
    (tmp_path / "special_tokens_map.json").write_text('{"additional_special_tokens": ["[E]"]}')
    with pytest.raises(VocabularyError, match=r"vocab.txt has a token twice.* open: \[E\]"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"[E]": 8}')
    assert Tokenizer.from_folder(tmp_path).encode("a [E]") == [6, 8]


@pytest.mark.parametrize("unk", [{"content": "<|endoftext|>", "lstrip": True}, "<|endoftext|>", None])
def test_one_token_with_several_meanings_has_transformers_flags(tmp_path, unk) -> None:
    vocabularies.put(tmp_path, "GPT2-base-en")
    folder = tmp_path / "GPT2-base-en"
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    ends = {
        "bos_token": {"content": "<|endoftext|>", "lstrip": True},
        "eos_token": {"content": "<|endoftext|>", "rstrip": True},
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(ends | ({"unk_token": unk} if unk else {})))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = "a  <|endoftext|>  b"
    assert Tokenizer.from_folder(folder).encode(text) == theirs(text)["input_ids"]


# -- tokenizer.json -----------------------------------------------------------------------------------------------


def test_t5s_tokenizer_json_gives_the_same_ids(tmp_path, home, load) -> None:
    slow = load("T5-base-en")
    pieces = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    sp = sentencepiece.SentencePieceProcessor(model_file=str(home / "T5-base-en" / "spiece.model"))
    pieces += [(sp.id_to_piece(n), sp.get_score(n)) for n in range(3, sp.get_piece_size())]
    pieces += [(f"<extra_id_{n}>", 0.0) for n in reversed(range(100))]
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    steps = [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace()]
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(steps)
    fast.decoder = tokenizers.decoders.Metaspace()
    fast.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    tokenizer = Tokenizer.from_folder(tmp_path)
    text = "The <extra_id_0> walks in the park, slowly."
    assert tokenizer.kind == "t5"
    assert tokenizer.encode_plus(text) == slow.encode_plus(text)
    assert tokenizer.decode(tokenizer.encode("Hello world"), skip_special_tokens=True) == "Hello world"


@pytest.fixture
def roberta(tmp_path, home):
    """A RoBERTa as Hugging Face saves it, with texts between <s> and </s>."""
    files = [str(home / "GPT2-base-en" / name) for name in ("vocab.json", "merges.txt")]
    rust = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*files))
    rust.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = tokenizers.decoders.ByteLevel()
    rust.add_special_tokens(["<s>", "</s>", "<mask>", "<pad>"])
    ends = [(token, rust.token_to_id(token)) for token in ("</s>", "<s>")]
    rust.post_processor = tokenizers.processors.RobertaProcessing(*ends)
    rust.enable_truncation(4)
    rust.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"cls_token": "<s>", "sep_token": {"content": "</s>"}}))
    return tmp_path


def test_a_hugging_face_folder(roberta) -> None:
    tokenizer = Tokenizer.from_folder(roberta)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(roberta / "tokenizer.json"))
    assert tokenizer.kind == "bpe"
    assert (tokenizer.get_command_id("cls"), tokenizer.get_command_id("sep")) == (50257, 50258)
    assert tokenizer.get_command_id("mask") == 50259
    pair = ("The quick brown fox jumps", "over the lazy dog.")
    assert tokenizer.encode_plus(*pair)["input_ids"] == theirs(*pair)["input_ids"]
    cut = tokenizer.encode_plus(*pair, max_length=8)["input_ids"]
    assert tokenizer.decode(cut) == "<s>The quick</s></s>over the</s>"
    assert tokenizer.decode(cut, skip_special_tokens=True) == "The quickover the"


def test_lower_case_of_tokenizer_config_wins(tmp_path, home) -> None:
    rust = tokenizers.BertWordPieceTokenizer(str(home / "BERT-base-en" / "vocab.txt"))
    rust.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    rust.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_folder(tmp_path).tokenize("Hello") == ["hello"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer.from_folder(tmp_path).tokenize("Hello") == ["[UNK]"]


# -- options and costs --------------------------------------------------------------------------------------------


def test_without_jieba_the_cure_is_named(home, monkeypatch) -> None:
    monkeypatch.setattr(jieba_engine.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install jieba"):
        Tokenizer.from_folder(home / "T5-base-ch")
    assert Tokenizer.from_folder(home / "T5-base-ch", segmenter="characters").encode("今天") == [306, 1231]


@pytest.mark.parametrize(("name", "segmenter"), [("T5-base-ch", "words"), ("GLM-large-ch", "jieba")])
def test_a_segmenter_that_does_not_fit(home, name, segmenter) -> None:
    with pytest.raises(ConfigError, match="segmenter"):
        Tokenizer.from_folder(home / name, segmenter=segmenter)


def test_jieba_writes_and_says_nothing(home, tmp_path) -> None:
    folder = str(home / "T5-base-ch")
    code = f"from flagai.data.tokenizer import Tokenizer; Tokenizer.from_folder({folder!r}).encode('今天')"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.stdout, done.stderr, list(tmp_path.iterdir())) == ("", "", [])


def test_importing_costs_little() -> None:
    code = "import sys; from flagai.data.tokenizer import Tokenizer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "tokenizers", "sentencepiece", "jieba", "numpy"} & set(done.stdout.split())


def test_errors_are_of_one_family() -> None:
    assert issubclass(VocabularyError, FlagAIError)
    assert golden("tok_glm_chinese")
