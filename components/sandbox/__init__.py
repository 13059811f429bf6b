"""Isolation for code that a model wrote: nothing else in the project runs such code."""
