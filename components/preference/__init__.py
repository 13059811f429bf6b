"""Preference learning, sections 4.2 and 4.3 of the report: pairs, DPO, reward model, GRPO."""
