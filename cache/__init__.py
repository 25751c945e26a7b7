"""The cache: frames table, embedding store, identity and integrity. Knows files and digests, nothing of models."""
