"""The simulation: the real engine on the memory server, in virtual time, with faults by a seed.

A *universe* is one seed: engines, workers and clients as processes, runs of small random graphs, and a plan of what
goes wrong. Checkers watch what the server stores; when the faults stop, every run has to end.

`python -m tests.simulation --universes 500` runs some; `--seed N` repeats one, `--trace` tells its story.
"""
