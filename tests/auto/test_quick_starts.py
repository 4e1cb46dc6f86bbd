"""FlagAI's quick starts run as they are written, on local folders of the true format with tiny random weights."""

import textwrap

import pytest
import torch

from tests import folders

BACKBONES = {
    "GLM-large-ch": "GLMModel",
    "RoBERTa-base-ch": "BertForMaskLM",
    "BERT-base-en": "BertForMaskLM",
    "GPT2-base-ch": "GPT2Model",
    "T5-base-ch": "T5Model",
}
TRAINED = {
    "ner": ("BertForSequenceLabeling", {"class_num": 7}),
    "ner-crf": ("BertForSequenceLabelingCRF", {"class_num": 7}),
    "ner-gp": ("BertForSequenceLabelingGP", {"class_num": 3, "inner_dim": 8}),
    "semantic-matching": ("BertForClsClassifier", {"class_num": 2}),
    "classification": ("BertForClsClassifier", {"class_num": 15}),
}
LABELS = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
SCRIPT = """
    import torch
    from flagai.auto_model.auto_loader import AutoLoader
    from flagai.model.predictor.predictor import Predictor

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target = {labels}
    types = ["LOC", "ORG", "PER"]
    text = "本文总结了十个可穿戴产品的设计原则，而这些原则，同样也是笔者认为是这个行业最吸引人的地方。"
    loader = AutoLoader({loader}, model_dir="./state_dict/")
    model = loader.get_model()
    tokenizer = loader.get_tokenizer()
    model.to(device)
    model.eval()
    predictor = Predictor(model, tokenizer)
    with torch.no_grad():
        answer = predictor.{call}
"""
DRAWN = "predict_generate_randomsample(text, out_max_length=12, top_k=10, top_p=.1, repetition_penalty=4.0, "
DRAWN += "temperature=1.2)"
IN_ORDER = "predict_generate_randomsample(text, 256, 12, 20, 0.8, 1.5, 1.0)"
SEARCHED = "predict_generate_beamsearch(text, out_max_length=12, beam_size=3)"


def _entities(answer):
    return all(
        isinstance(start, int) and start <= end and label in {"LOC", "ORG", "PER"} for start, end, label in answer
    )


def _written(answer):
    return isinstance(answer, str) and bool(answer) and "##" not in answer and "[SEP]" not in answer


def _prompt_and_pieces(answer):
    return answer.startswith("[CLS]") and answer.count("<|startofpiece|>") == answer.count("MASK]") > 0


# (arguments of AutoLoader, call of the Predictor, what the answer must be like)
STARTS = [
    ('"title-generation", model_name="GLM-large-ch"', DRAWN, _written),
    ('"title-generation", model_name="GLM-large-ch"', SEARCHED, _written),
    ('task_name="seq2seq", model_name="GLM-large-ch"', IN_ORDER, _written),
    ('"title-generation", model_name="RoBERTa-base-ch"', SEARCHED, _written),
    (
        'task_name="title-generation", model_name="BERT-base-en"',
        'predict_generate_beamsearch("Four minutes after the red card, Emerson Royal nodded a corner into the path of '
        'the unmarked Kane.", input_max_length=500, out_max_length=12, beam_size=3)',
        _written,
    ),
    ('"title-generation", model_name="T5-base-ch"', SEARCHED, _written),
    ('"seq2seq", model_name="T5-base-ch"', IN_ORDER, _written),
    ('"seq2seq", model_name="GPT2-base-ch"', IN_ORDER, _written),
    ('"writing", model_name="GPT2-base-ch"', SEARCHED, _written),
    ('"lm", model_name="GPT2-base-ch"', "predict_generate_contrastive_search(text, 256, 12, 4)", _written),
    ('"poetry", "GLM-large-ch"', DRAWN.replace("text", '"桃花：七言绝句"'), _written),
    ('task_name="poetry-generation", model_name="GLM-large-ch"', SEARCHED.replace("text", '"春：五言律诗"'), _written),
    ('"lm", "GLM-large-ch"', DRAWN.replace("text", '"问题：啤酒伤胃吗？回答：[gMASK]"'), _prompt_and_pieces),
    ('"lm", "GLM-large-ch"', IN_ORDER.replace("text", '"[MASK]是中国的首都，[sMASK]，[gMASK]"'), _prompt_and_pieces),
    ('"ner", model_name="RoBERTa-base-ch", class_num=len(target)', "predict_ner(text, target, maxlen=256)", _entities),
    ('"ner-crf", "RoBERTa-base-ch", class_num=len(target)', "predict_ner(text, target, 256, False)", _entities),
    ('"ner-gp", "RoBERTa-base-ch", class_num=3, inner_dim=8', "predict_ner(text, types, maxlen=256)", _entities),
    ('"sequence_labeling", "RoBERTa-base-ch", class_num=len(target)', "predict_ner(text, target)", _entities),
    (
        '"semantic-matching", "RoBERTa-base-ch", load_pretrain_params=True, class_num=2',
        'predict_cls_classifier(["后悔了吗", "你有没有后悔"])',
        lambda answer: answer in (0, 1) and isinstance(answer, int),
    ),
    (
        '"classification", "RoBERTa-base-ch", class_num=15',
        "predict_cls_classifier(text, 512)",
        lambda answer: answer in range(15) and isinstance(answer, int),
    ),
    (
        'task_name="embedding", model_name="RoBERTa-base-ch"',
        "predict_embedding(text, 256)",
        lambda answer: answer.shape == (12,) and answer.dtype == torch.float32 and answer.device.type == "cpu",
    ),
    (
        '"masklm", "RoBERTa-base-ch"',
        'predict_masklm("今天天气[MASK]错", 512)',
        lambda answer: isinstance(answer, str) and bool(answer),
    ),
]


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    for task, (class_name, sizes) in TRAINED.items():
        name = f"RoBERTa-base-ch-{task}"
        folders.write(folder / "state_dict", "RoBERTa-base-ch", class_name, folder=name, **sizes)
    for name, class_name in BACKBONES.items():
        folders.write(
            folder / "state_dict", name, class_name, **({"class_num": None} if "BERT" in name.upper() else {})
        )
    return folder


@pytest.mark.parametrize(
    ("loader", "call", "is_right"), STARTS, ids=[f"{start[0]} {start[1][:40]}" for start in STARTS]
)
def test_quick_start(loader, call, is_right, working_folder, monkeypatch):
    monkeypatch.chdir(working_folder)
    names = {}
    exec(textwrap.dedent(SCRIPT.format(labels=LABELS, loader=loader, call=call)), names)
    assert is_right(names["answer"]), names["answer"]


def test_the_tutorial_of_models(working_folder, monkeypatch):
    """Loading by class and by AutoLoader, from the name and the folder alone; a forward with redundant arguments."""
    monkeypatch.chdir(working_folder)
    from flagai.auto_model.auto_loader import AutoLoader
    from flagai.data.tokenizer import Tokenizer
    from flagai.model.glm_model import GLMForSeq2Seq, GLMModel

    model = GLMModel.from_pretrain(download_path="./state_dict", model_name="GLM-large-ch")
    tokenizer = Tokenizer.from_pretrained("GLM-large-ch", cache_dir="./state_dict")
    ids = torch.tensor([tokenizer.EncodeAsIds("今天吃饭吃了肯德基")])
    positions = torch.stack([torch.arange(ids.shape[1]), torch.zeros(ids.shape[1], dtype=torch.long)])[None]
    output = model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=torch.tensor([ids.shape[1]]),
        mems=None,
        return_memory=False,
        detach_memory=True,
        prompt_pos=None,
        something_else=1,
    )
    assert {"logits", "hidden_states"} <= output.keys()
    assert output["logits"].shape == (*ids.shape, 50048)
    same = AutoLoader("title-generation", model_name="GLM-large-ch", model_dir="./state_dict").get_model()
    assert isinstance(same, GLMForSeq2Seq)
    new = GLMModel.init_from_json(config_file="./state_dict/GLM-large-ch/config.json", checkpoint_activations=True)
    assert new.state_dict().keys() == model.state_dict().keys()
