"""Aligned crops of a user's own videos."""
