"""How fast it is, measured beside others."""
