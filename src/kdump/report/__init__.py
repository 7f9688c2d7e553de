"""Reports: one model of a crash; text, JSON and HTML are renderings of it."""
