"""Model inputs from texts.

Arguments of the same name mean the same everywhere: ``tokenizer`` is the model's; ``texts`` are texts, or pairs where a
function says so; ``max_length`` is how many tokens a row may have, special ones included, or None for all. Of a longer
text, tokens are dropped on the tokenizer's ``truncation_side``, of a pair from its longer text; without room for text
there is an `InputError`.
"""
