"""Supervised fine-tuning, section 4.1 of the report: verifiable tasks, conversations, training."""
