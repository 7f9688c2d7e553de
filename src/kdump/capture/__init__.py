"""The code that runs in the capture kernel: init, devices, the ladder of what is saved, the final action."""
