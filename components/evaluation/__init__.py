"""Evaluation, section 5 of the report, and the report card."""
