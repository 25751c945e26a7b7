"""Heads on cached embeddings: fusion, temporal encoders, task outputs, losses. Torch only; no files, no tables."""
