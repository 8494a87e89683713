"""CVAE: a conditional variational autoencoder for super-resolution."""
