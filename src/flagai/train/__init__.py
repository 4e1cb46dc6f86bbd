"""Fine-tuning: a data file in, a model's folder out."""
