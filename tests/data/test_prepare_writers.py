"""Inputs of GPT-2 and T5."""

import pytest

from flagai.data.prepare import causal, encoder_decoder
from flagai.errors import InputError


def test_gpt2_begins_with_cls_where_the_vocabulary_is_berts(bert_tokenizer):
    (prompt,) = causal.prompts(bert_tokenizer, ["今天"])
    assert prompt.ids == (101, 791, 1921)
    (cut,) = causal.prompts(bert_tokenizer, ["今天今天"], 3)
    assert cut.ids == (101, 791, 1921)
    batch = causal.pairs(bert_tokenizer, ["今天", "今"], ["天", "天天"])
    assert batch["input_ids"].tolist() == [[101, 791, 1921, 102, 1921, 102], [101, 791, 102, 1921, 1921, 102]]
    assert batch["labels"].tolist() == [[-100, -100, -100, -100, 1921, 102], [-100, -100, -100, 1921, 1921, 102]]


def test_gpt2_begins_with_the_text_in_a_byte_vocabulary(gpt2_tokenizer):
    (prompt,) = causal.prompts(gpt2_tokenizer, ["Hello world"])
    assert prompt.ids == (15496, 995)
    (empty,) = causal.prompts(gpt2_tokenizer, [""])
    assert len(empty.ids) == 1


def test_t5_reads_its_own_frame(t5_tokenizer, pegasus_tokenizer):
    (prompt,) = encoder_decoder.prompts(t5_tokenizer, ["Hello world"])
    assert prompt.ids[-1] == 1
    assert encoder_decoder.start_and_end(t5_tokenizer) == (0, 1)
    (chinese,) = encoder_decoder.prompts(pegasus_tokenizer, ["今天"])
    assert (chinese.ids[0], chinese.ids[-1]) == (101, 102)
    batch = encoder_decoder.seq2seq(t5_tokenizer, ["Hello world", "a"], ["Hi", "b c d"], max_target_length=3)
    assert batch["decoder_input_ids"][:, 0].tolist() == [0, 0]
    assert batch["labels"].shape == batch["decoder_input_ids"].shape
    assert batch["labels"].shape[1] <= 3
    assert (batch["labels"] == 1).any(1).all()
    with pytest.raises(InputError, match="leaves no room"):
        encoder_decoder.prompts(t5_tokenizer, ["a"], 1)
