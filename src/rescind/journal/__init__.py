"""What did it do? An append-only record of intents and outcomes, durable before and after each effect."""
