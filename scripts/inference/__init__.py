"""Checkpoints and photos: load any of ours, enlarge any photo."""
