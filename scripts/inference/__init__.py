"""Checkpoints and photos: load any of ours, enlarge any photo."""

from scripts.inference.models import load_model

__all__ = ["load_model"]
