"""A kernel's own description, from its memory: VMCOREINFO, kallsyms, BTF, ORC, the printk ring."""
