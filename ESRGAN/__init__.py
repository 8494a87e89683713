"""ESRGAN: enhanced super-resolution generative adversarial network (Wang et al. 2018)."""
