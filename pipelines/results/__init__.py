"""Evaluation of finished runs and studies: scores, leaderboards, tests, comparisons."""
