"""SRVAE: a fully convolutional variational autoencoder for super-resolution."""
