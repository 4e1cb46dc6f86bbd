"""A task and a model's name in, a model and its tokenizer out."""
