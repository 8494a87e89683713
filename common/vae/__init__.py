"""What the variational autoencoders share."""
