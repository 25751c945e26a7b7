"""Training heads on cached embeddings: strategies, windows, stacks, methods, run folders."""
