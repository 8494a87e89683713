"""What at least two of the model folders use in the same way, and what names no model."""
