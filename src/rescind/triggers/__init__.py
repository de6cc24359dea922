"""Is this going wrong? Facts in, findings out; and the policy that says what is done about a signal."""
