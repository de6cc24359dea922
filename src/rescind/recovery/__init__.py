"""Carry on safely: what a person has to decide, and what was decided."""
