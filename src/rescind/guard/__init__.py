"""Inside the agent: what stands between a model's decision and its effect."""
