"""GLM's inputs equal those of the original implementations, but for their bugs."""

import itertools
import json
import random
from pathlib import Path

import pytest
import torch

from flagai.data.prepare import glm, glm_cloze, glm_pretraining
from flagai.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"
PAD = 50000


def rows_of(name, key="rows"):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))[key]


def chinese(rows):
    """Rows of Chinese GLM, but those where the original puts the end of the target behind the padding."""
    rows = [row for row in rows if row.get("model", "GLM-large-ch") == "GLM-large-ch"]
    return [row for row in rows if row["target"] is None or row["max_length"] is None]


@pytest.mark.parametrize("row", chinese(rows_of("inputs_glm_seq2seq")), ids=lambda row: row["source"][:8])
def test_a_source_and_its_target_become_the_original_row(row, glm_tokenizer):
    source = glm_tokenizer.encode(row["source"])
    if row["max_length"] is not None:
        source = source[: row["max_length"] - 2]
    target = None if row["target"] is None else glm_tokenizer.encode(row["target"])
    made = glm.causal_row(glm_tokenizer, source, target)
    assert made.ids == row["out"]["input_ids"]
    assert [made.positions, made.blocks] == row["out"]["position_ids"]
    assert made.separator == row["out"]["attention_mask"] == 0
    if target is not None:
        assert made.targets == row["out"]["target_ids"]
        # The original does not shift its loss mask with the targets, so the first one never counts.
        assert sum(made.weights) == len(target) + 1
        assert made.weights[len(source) + 1 :] == [1] * (len(target) + 1)


def test_a_batch_of_sources_and_targets_is_padded_as_in_the_original(glm_tokenizer):
    collate = rows_of("inputs_glm_seq2seq", "collate")
    sources, targets = zip(*collate["pairs"], strict=True)
    batch = glm.seq2seq(glm_tokenizer, sources, targets)
    out = collate["out"]
    assert batch["input_ids"].tolist() == out["input_ids"]
    assert batch["target_ids"].tolist() == out["labels"]
    assert batch["position_ids"].tolist() == out["position_ids"]
    assert batch["attention_mask"].tolist() == out["attention_mask"]
    counted = batch["target_ids"][batch["loss_mask"] == 1].tolist()
    expected = [[*glm_tokenizer.encode(target), 50007] for target in targets]
    assert counted == [token for row in expected for token in row]


@pytest.mark.parametrize("row", rows_of("inputs_glm_block_pretrain"), ids=lambda row: row["task"])
def test_spans_are_taken_out_and_written_after_the_text(row, glm_tokenizer):
    mask = {"bert": "mask", "gap_sentence": "sMASK", "generation": "gMASK"}[row["task"]]
    order = [1, 0] if row["shuffle_blocks"] else None
    made = glm_pretraining.block_row(glm_tokenizer, row["tokens_in"], row["spans"], mask, order)
    out = row["out"]
    assert (made.ids, made.targets, made.weights) == (out["tokens"], out["targets"], out["loss_mask"])
    assert ([made.positions, made.blocks], made.separator) == (out["position_ids"], out["sep"])


@pytest.mark.parametrize("seed", range(20))
def test_drawn_spans_are_apart_inside_and_a_seventh_of_the_text(seed):
    chance = random.Random(seed)
    spans = glm_pretraining.short_spans(200, chance)
    assert all(1 <= start < end <= 199 for start, end in spans)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    assert sum(end - start for start, end in spans) == 30
    ((start, end),) = glm_pretraining.long_end(200, chance)
    assert end == 200
    assert 1 <= start <= 100
    assert glm_pretraining.short_spans(2, chance) == []


def test_choices_are_rows_that_share_their_text(english_glm_tokenizer):
    row = next(row for row in rows_of("inputs_glm_cloze") if row["task"] == "copa")
    out = row["out"]
    first, second = "the toilet filled with water", "water flowed from the spout"
    text = f'" {first} " or " {second} " ? the man turned on the faucet , so [MASK] .'
    choices = [[first, second]]
    batch = glm_cloze.multi_token_cloze(english_glm_tokenizer, [text], choices)
    width = batch["input_ids"].shape[-1]
    for name in ("input_ids", "position_ids", "target_ids", "logit_mask"):
        assert batch[name].tolist() == torch.tensor(out[name])[..., :width].tolist(), name
    assert batch["attention_mask"].tolist() == out["attention_mask"]


@pytest.mark.parametrize("text", ["花呗怎么还款", "借呗额度是多少"])
def test_a_single_token_question_ends_with_the_start_of_its_answer(text, glm_tokenizer):
    batch = glm_cloze.single_token_cloze(glm_tokenizer, [f"{text}?[MASK]。"], ["是", "不是"])
    length = int(batch["attention_mask"][0])
    ids = batch["input_ids"][0].tolist()
    assert ids[length] == 50006
    place = ids.index(50003)
    assert batch["position_ids"][0, :, length].tolist() == [place, 1]
    assert batch["target_ids"].tolist() == [[570, 2350]]
    with pytest.raises(InputError, match="3 tokens"):
        glm_cloze.single_token_cloze(glm_tokenizer, [f"{text}[MASK]"], ["故宫的猫"])


@pytest.mark.parametrize("row", [row for row in rows_of("inputs_glm_cloze") if row["task"] in ("cmrc",)])
def test_an_answer_is_written_at_the_place_of_its_mask(row, glm_tokenizer):
    out, kept = row["out"], 20
    context = out["input_ids"][0][:kept]
    answer = glm_tokenizer.encode(row["meta"]["answer"])
    made = glm.blank_row(glm_tokenizer, context, [(10, answer)], block_positions=not row["no_block_position"])
    # The original pads the text before its answer, and lets everybody see that padding.
    end = 24 + len(answer) + 1
    assert made.ids[kept:] == out["input_ids"][0][24:end]
    assert made.positions[kept:] == out["position_ids"][0][0][24:end]
    assert made.blocks[kept:] == out["position_ids"][0][1][24:end]
    assert made.targets[kept:] == out["target_ids"][0][24:end]
    assert made.weights[kept:] == out["loss_mask"][0][24:end]


@pytest.mark.parametrize("row", rows_of("glm_blank_filling"), ids=lambda row: row["text"][:8])
def test_a_text_with_blanks_becomes_the_original_context(row, glm_tokenizer):
    (prompt,) = glm.blank_prompts(glm_tokenizer, [row["text"]])
    assert [list(prompt.ids)] == row["calls"][0]["input_ids"]
    started = [call["position_ids"][0][0][0] for call in row["calls"] if call["input_ids"] == [[50006]]]
    assert list(prompt.blanks) == started


def test_a_text_without_a_mask_is_continued(glm_tokenizer):
    (prompt,) = glm.blank_prompts(glm_tokenizer, ["从前有座山"])
    assert prompt.ids[-1] == 50009
    assert prompt.blanks == (len(prompt.ids) - 1,)


def test_every_mask_has_its_answer(glm_tokenizer):
    text = "[MASK]是中国的首都，[MASK]是法国的首都。"
    batch = glm.blank_filling(glm_tokenizer, [text, "晴[MASK]"], [["北京", "巴黎"], ["天"]])
    length = int(batch["attention_mask"][0])
    starts = (batch["input_ids"][0] == 50006).nonzero().flatten().tolist()
    assert starts[0] == length
    assert batch["position_ids"][0, 0, starts].tolist() == [1, 6]
    assert batch["position_ids"][0, 1, starts].tolist() == [1, 1]
    with pytest.raises(InputError, match="2 masks, but 1"):
        glm.blank_filling(glm_tokenizer, [text], [["北京"]])


def test_texts_to_be_classified_are_framed_and_cut(glm_tokenizer):
    batch = glm.classification(glm_tokenizer, ["今天天气不错", ("今天天气不错", "晴")], [0, 1], max_length=6)
    assert batch["input_ids"][0].tolist() == [50002, 3378, 4416, 560, PAD, PAD]
    assert batch["input_ids"][1].tolist() == [50002, 3378, 4416, 50001, 34097, PAD]
    assert batch["attention_mask"].tolist() == [5, 6]
    assert batch["labels"].tolist() == [0, 1]


def test_training_rows_hold_what_hugging_faces_code_makes(glm_tokenizer):
    """Its rows are padded between the text and the answer; ours have the same tokens at the same positions."""
    case = rows_of("hf_glm_chinese", "build_inputs_for_generation")[1]
    batch = glm.blank_filling(glm_tokenizer, case["texts"], [[target] for target in case["targets"]])
    for row in range(2):
        ids, (places, blocks) = case["out"]["input_ids"][row], case["out"]["position_ids"][row]
        length = int(batch["attention_mask"][row])
        start = ids.index(50006)
        assert batch["input_ids"][row, :length].tolist() == ids[:length]
        assert set(ids[length:start]) <= {PAD}
        answer = [token for token in ids[start:] if token not in (PAD, 50007)]
        assert batch["input_ids"][row, length : length + len(answer)].tolist() == answer
        assert batch["position_ids"][row, 0, length : length + len(answer)].tolist() == places[start:][: len(answer)]
        assert batch["position_ids"][row, 1, length : length + len(answer)].tolist() == blocks[start:][: len(answer)]


def test_choices_are_those_of_hugging_faces_code(glm_tokenizer):
    (case,) = rows_of("hf_glm_chinese", "build_inputs_for_multiple_choice")
    out = case["out"]
    batch = glm_cloze.multi_token_cloze(glm_tokenizer, case["texts"], case["choices"])
    length = int(batch["attention_mask"][0, 0])
    for number, (choice, index) in enumerate(zip(out["choice_ids"][0], out["choice_indices"][0], strict=True)):
        assert batch["input_ids"][0, number, :length].tolist() == out["input_ids"][0][:length]
        assert batch["target_ids"][0, number, length : length + len(choice)].tolist() == choice
        assert batch["position_ids"][0, number, 0, length].tolist() == out["position_ids"][0][0][index[0]]
