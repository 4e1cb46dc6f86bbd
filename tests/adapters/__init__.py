"""Adapters: beside PEFT and transformers, from hostile folders, mixed in batches, merged and saved."""
