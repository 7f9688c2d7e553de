"""Puts a kernel in place: images, boot parameters, ELF core headers, purgatory, the two system calls."""
