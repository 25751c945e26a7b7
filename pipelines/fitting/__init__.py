"""What heads and backbones share when they train: optimiser, best epoch, checkpoint, interrupts, run folder."""
