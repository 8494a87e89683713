"""EDSR: residual blocks without batch norm."""
