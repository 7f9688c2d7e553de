"""Builds the capture image: kernel modules and the Python runtime that the capture path needs, and nothing else."""
