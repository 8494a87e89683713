"""CycleGAN for unpaired super-resolution, in three versions."""
