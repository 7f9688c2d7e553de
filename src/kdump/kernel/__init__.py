"""What a kernel says about itself out of its own memory: VMCOREINFO, kallsyms, BTF, ORC, the printk ring."""
