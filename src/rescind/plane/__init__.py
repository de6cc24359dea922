"""The control plane: one HTTP API for people and their programs, over the same journal as the command line.

PL1. *Nobody without a name.* Every request but `/health` and the description shows a person's token; those of agents,
    of switches and of verifiers reach nothing. What is done is recorded under the holder's name, and under no other.
PL2. *Nothing of its own.* What is answered is folded from the journal, and what is told is an entry of it. It may be
    killed and started again at any instant, and several may serve one store.
PL3. *On record before it is answered.* If nobody can record it, it is refused and has not happened.
PL4. *Sent again, done once.* Whoever has lost an answer may send the same request again; nothing happens twice.
PL5. *Only text.* What agents wrote is given as JSON in plain ASCII, or as Markdown in which it is only text.
"""
