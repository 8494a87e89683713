"""Photos: found, paired, decoded once, cut into crops, resized."""
