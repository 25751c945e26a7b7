"""What the numbers mean: scores, predictions, intervals, tests. No torch, no run folder."""
