"""Suite `fidelity`: undo on stateful agent environments that others wrote.

environments    what a task is; dojo and bfcl make them
score           does tasks under a guard, undoes them, and says what became of the world
contents, likeness, ownership
                judge it, by means that share nothing with the product's
worker          runs where the environments are installed, which is no place of ours
measure         makes that place, and rows and a table of what the worker found
"""
