"""Marks of many shards in few files."""
