"""Command-line tools that stand on the model folders and on common."""
