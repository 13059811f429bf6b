"""Training, sections 3.2 and 3.3 of the report: one loop for every objective, pre-training, context extension."""
