"""The nouns of rescind and the pure rules on them. Nothing here does I/O, and nothing here imports the rest."""
