"""Decisions: pure functions and small tables; time and chance are arguments."""
