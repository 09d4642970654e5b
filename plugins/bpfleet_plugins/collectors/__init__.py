"""Built-in collectors, one module each."""
