"""The outside world: settings, artifact store, tracking, catalog, launching, hardware facts. Imports no sibling."""
