"""Pretraining of a ViT on unlabelled faces, as a masked autoencoder."""
