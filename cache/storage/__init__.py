"""Where a cache lies: a folder, or a prefix of an object store; the same few operations on both."""
