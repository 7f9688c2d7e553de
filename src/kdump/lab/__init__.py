"""Virtual machines: boot a kernel under QEMU, crash it, fetch what it left."""
