"""Sound tracks of videos in, embeddings out."""
