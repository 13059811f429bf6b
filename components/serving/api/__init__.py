"""OpenAI's HTTP API over the continuous-batching engine. ``schema`` says what clients may send, ``prompts``
makes engine requests of it, ``worker`` runs the engine, ``replies`` writes what clients read, ``app`` has the routes.
"""
