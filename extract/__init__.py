"""From faces and annotations to frames tables and embeddings: readers, made data, decoding, backbones, the engine."""
