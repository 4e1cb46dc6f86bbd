"""Tokenizers, all on Hugging Face's ``tokenizers``."""
