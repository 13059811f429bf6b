"""Export and serving of checkpoints."""
