"""Training: one plain loop, its schedules, optimizer, model and checkpoints."""
