"""Where frameworks meet a guard: one thin module for each, imported by those who use it."""
