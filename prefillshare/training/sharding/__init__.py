"""How a run's models lie on its processes: whole, or split by FSDP2 or DeepSpeed."""
