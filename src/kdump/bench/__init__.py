"""What other tools want of a dump: debug information, symbol files, memory images, cores."""
