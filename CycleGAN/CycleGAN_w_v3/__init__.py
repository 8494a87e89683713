"""CycleGAN, version 3."""
