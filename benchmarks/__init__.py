"""Figures against the tools that people use today, paired in one run: ratios, not times."""
