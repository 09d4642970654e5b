"""Built-in decoders: names for numbers, in a column of their own."""
