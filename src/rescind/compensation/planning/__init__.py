"""What an undo is about, who is touched by it, and what it would do, in which order: the plan that is shown."""
