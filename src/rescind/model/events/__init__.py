"""What happened, family by family; `model.entry` is where they come together, and where to import them from."""
