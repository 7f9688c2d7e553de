"""What runs in the second kernel: init, devices, the ladder of what is saved, the final action."""
