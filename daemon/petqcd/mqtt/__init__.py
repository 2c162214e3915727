"""What a broker is told, and what may come back from it."""
