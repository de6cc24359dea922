"""The stop button and the undo button for AI agents."""
