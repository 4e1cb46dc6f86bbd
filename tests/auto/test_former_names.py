"""Names and arguments of FlagAI's that its users' scripts have, or an error that says what to use."""

import json

import pytest
import torch

from flagai.data import tokenizer as tokenizers
from flagai.errors import ConfigError, InputError
from flagai.model.base_model import BaseModel
from flagai.model.bert_model import BertForSequenceLabelingCRF
from flagai.model.glm_model import GLMModel
from tests import folders, tiny, vocabularies


@pytest.mark.parametrize(
    ("name", "model"), [("GLMLargeChTokenizer", "GLM-large-ch"), ("BertWordPieceTokenizer", "BERT-base-en")]
)
def test_a_class_of_tokenizers_gives_the_models(name, model, tmp_path):
    folder = vocabularies.put(tmp_path, model) / model
    right = tokenizers.Tokenizer.from_folder(folder)
    former = getattr(tokenizers, name)
    file = next(path for path in folder.iterdir() if path.suffix in (".model", ".txt"))
    for made in (former(vocab_path=file, add_block_symbols=True), former(folder), former(cache_dir=tmp_path)):
        assert type(made) is tokenizers.Tokenizer
        assert made.encode("Hello 今天[MASK]") == right.encode("Hello 今天[MASK]")
        assert (made.vocab, made.token_pad_id) == (right.get_vocab(), right.get_command_id("pad"))
    with pytest.raises(InputError, match="takes no merges"):
        former(folder, merges="x")
    assert right.encode_plus(source_text="今天") == right.encode_plus("今天")


def test_a_roberta_needs_its_vocabulary():
    with pytest.raises(InputError, match="give vocab_path"):
        tokenizers.ROBERTATokenizer()


@pytest.mark.parametrize(
    "class_name", ["BertForSequenceLabelingCRF", "BertForMaskLM", "GLMForSeq2Seq", "T5Model", "GPT2Model"]
)
def test_state_dicts_of_flagais_files_load(class_name, tmp_path):
    changes = {"class_num": 3} if class_name.endswith("CRF") else {}
    one, two = (tiny.build(class_name, seed=seed, **changes) for seed in (1, 2))
    one.save_weights(tmp_path / "x.bin")
    content = torch.load(tmp_path / "x.bin", weights_only=True)
    two.load_state_dict(content.get("module", content))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value)
    missing = dict(list(one.state_dict().items())[1:])
    with pytest.raises(RuntimeError, match="Missing key"):
        two.load_state_dict(missing)


def test_a_model_is_built_on_a_device(tmp_path):
    tiny.build("GLMModel").save_config(tmp_path)
    assert GLMModel.init_from_json(tmp_path / "config.json", device="cpu").device.type == "cpu"
    assert GLMModel.init_from_json(tmp_path / "config.json", device=torch.device("meta")).device.type == "meta"
    with pytest.raises(InputError, match="nowhere"):
        GLMModel.init_from_json(tmp_path / "config.json", device="nowhere")


@pytest.mark.parametrize(
    ("argument", "cure"),
    [
        ("fp16", 'dtype="float16"'),
        ("num_class", "class_num"),
        ("load_in_8bit", 'quantize="int8"'),
        ("device_map", "device"),
        ("use_cache", "Leave it out"),
        ("enable_flash_atten", "Leave it out"),
    ],
)
def test_arguments_that_are_not_there_say_what_is(argument, cure, tmp_path):
    folders.write(tmp_path, "RoBERTa-base-ch", "BertForSequenceLabelingCRF", class_num=3)
    with pytest.raises(ConfigError, match=f"no setting '{argument}'.*{cure}"):
        BertForSequenceLabelingCRF.from_pretrain(tmp_path, "RoBERTa-base-ch", **{argument: True})


def test_a_model_of_ones_own_needs_no_more_than_a_constructor_and_forward(tmp_path):
    class Mine(BaseModel):
        def __init__(self, config, **kwargs):
            super().__init__(config, **kwargs)
            self.linear = torch.nn.Linear(config["hidden_size"], 2)

        def forward(self, x, **kwargs):
            return {"logits": self.linear(x)}

    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 4}))
    made = Mine.init_from_json(tmp_path / "config.json", device="cpu")
    assert made(x=torch.ones(1, 4))["logits"].shape == (1, 2)
