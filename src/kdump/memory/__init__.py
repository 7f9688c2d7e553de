"""Physical and virtual memory of a dead or live kernel, whatever holds it."""
