"""Put it right: what an undo decides, as values and pure rules, which its rooms share.

`planning` looks at the journal and the targets and says what would be done; `execution` does it, and can be killed at
any instant; `sharing` leaves it to workers; `effects` are the ready-made ways to look at a target and to put it back.
"""
