"""Model cards: what a model was trained on, how it scores, and what it must not be used for, in plain text."""
