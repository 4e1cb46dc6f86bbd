"""A Predictor on threads: mixed requests answer as they do one after the other."""

import itertools
from concurrent.futures import ThreadPoolExecutor

MODELS = {
    "GPT-2": ("GPT2-base-ch", "GPT2Model", {}),
    "GLM": ("GLM-large-ch", "GLMModel", {}),
    "NER": ("RoBERTa-base-ch", "BertForSequenceLabeling", {"class_num": 3}),
    "classes": ("RoBERTa-base-ch", "BertForClsClassifier", {"class_num": 3}),
    "masks": ("RoBERTa-base-ch", "BertForMaskLM", {}),
}
REQUESTS = [
    ("GPT-2", "write", {"text": "今天", "out_max_length": 3}),
    ("GPT-2", "predict_generate_randomsample", {"text": "今天", "out_max_length": 3, "seed": 1}),
    ("GPT-2", "predict_embedding", {"text": "今天"}),
    ("GLM", "fill_blanks", {"texts": "今[MASK]", "out_max_length": 2}),
    ("NER", "predict_ner", {"text": "今天天气", "target": ["O", "B-LOC", "I-LOC"]}),
    ("classes", "class_probabilities", {"texts": ["今天", "明天好"]}),
    ("masks", "predict_masklm", {"text": "今[MASK]"}),
]


def test_threads_answer_as_one_thread_does(predictor):
    runs = {model: predictor(name, class_name, **sizes) for model, (name, class_name, sizes) in MODELS.items()}
    requests = [(getattr(runs[model], method), given) for model, method, given in REQUESTS * 4]
    alone = [str(call(**given)) for call, given in requests]
    order = list(itertools.chain(range(0, len(requests), 2), range(1, len(requests), 2)))
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda row: str(requests[row][0](**requests[row][1])), order)
        together = dict(zip(order, found, strict=True))
    assert [together[row] for row in range(len(requests))] == alone
