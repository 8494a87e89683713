"""CycleGAN, version 2."""
