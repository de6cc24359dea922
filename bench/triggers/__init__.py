"""What detection is worth, and what it costs: on labelled runs, against other breakers, per step."""
