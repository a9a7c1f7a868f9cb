"""Training: one loop for every method, its optimisers, schedules, checkpoints and logs."""
