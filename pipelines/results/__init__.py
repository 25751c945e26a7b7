"""What finished runs and studies are worth: scores, leaderboards, tests, comparisons."""
