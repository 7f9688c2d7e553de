"""The healthy machine: configuration, reservation, boot loaders, units, readiness, stored crashes."""
