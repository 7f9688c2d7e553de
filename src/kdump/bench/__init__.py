"""Dumps for other tools: debug information, symbol files, memory images, cores."""
