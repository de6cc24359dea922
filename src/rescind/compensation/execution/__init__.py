"""Carrying out a plan: step by step, as it was shown, so that it can be killed at any instant and continued."""
