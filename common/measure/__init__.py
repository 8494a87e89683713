"""Figures and pictures of a network on held-out photos."""
