"""Runs code that nobody has read, in nearly 50 languages: isolated, limited, with a typed outcome.

``run.py`` is what others call; ``pool.py`` keeps sandboxes warm; ``languages.py`` has an entry a language;
``isolation.py`` finds what the host offers, ``seccomp.py`` what the kernel refuses. ``launcher.py`` and
``supervisor.py`` are programs of their own, run before and inside the isolation, on the standard library alone.
"""
