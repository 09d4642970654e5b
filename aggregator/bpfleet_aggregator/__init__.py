"""The central end: receives records from many agents, removes repeats, stores them, answers questions."""
