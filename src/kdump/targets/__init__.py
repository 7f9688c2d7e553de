"""Where dumps go: one module per kind of target, one protocol."""
