"""A PostgreSQL that several machines share: its address, connections to it, and the tables of ours in it.

Everything of ours stands in one schema, `rescind`. What stands there, those know whose tables they are.
"""

SCHEMA = "rescind"
