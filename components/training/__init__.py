"""Training, sections 3.2 and 3.3 of the report: the loop, pre-training, context extension."""
