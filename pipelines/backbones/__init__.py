"""Training backbones on faces: pretraining, fine-tuning, their sections in mtl.toml."""
