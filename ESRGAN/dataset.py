"""What ESRGAN is trained and validated on: aligned crops, and whole photos that are held out."""

from common.measure.validation import paired_crops_and_validation as crops_and_validation

__all__ = ["crops_and_validation"]
