"""May it still act? Standing orders, who has bound them, and receipts. Here: the embedded form, for one machine."""
