"""CycleGAN, version 1."""
