"""A plan that is left to workers: in shares, each carried out where its tools are, looked after until its end."""
