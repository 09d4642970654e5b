"""Files opened, by command; and a sink that writes one line per record."""
