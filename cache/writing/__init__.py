"""Writing shards, to a folder or to an object store."""
