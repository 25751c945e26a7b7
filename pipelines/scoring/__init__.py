"""Scores and what they are worth: metrics, intervals, tests, leaderboards."""
