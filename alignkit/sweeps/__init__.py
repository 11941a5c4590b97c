"""Sweeps: a request for several runs goes in, the runs and the best of them come out."""
