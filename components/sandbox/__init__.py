"""Runs code that nobody has read: isolated, limited, with a typed outcome.

``run.py`` is what others call; ``isolation.py`` finds what the host offers; ``launcher.py`` and ``runner.py`` are
programs of their own that run before and inside the isolation and import nothing but the standard library.
"""
