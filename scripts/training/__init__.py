"""Training: one plain loop, its schedules, optimizer, adapters and checkpoints."""
