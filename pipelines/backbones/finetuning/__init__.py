"""Fine-tuning of a backbone on labelled faces."""
