"""Files to hand in: the challenge's formats, filled, written and read back."""
