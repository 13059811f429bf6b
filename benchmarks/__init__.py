"""Measurements beside peers: each module states its hypothesis and has ``main(arguments)``; results/ keeps figures."""
