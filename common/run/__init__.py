"""A training run: its loop, folder, log and flags."""
