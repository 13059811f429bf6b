"""Measurements beside peers. Each module states its hypothesis first and has ``main(arguments)``; results/ keeps figures."""
