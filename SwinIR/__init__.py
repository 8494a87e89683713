"""SwinIR: attention within shifted windows."""
