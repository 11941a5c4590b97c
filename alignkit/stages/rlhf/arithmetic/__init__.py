"""The sums of RLHF, each a pure function of vectors: no model, no configuration and no logging in here.

Letters: A answers, N tokens of all answers end to end (answer by answer), S samples of one prompt, G = A / S groups,
T the longest answer. Ragged vectors are (N,) beside `lengths` (A,) int64, N = lengths.sum(), each length at least 1.
A score that is NaN is one that no reward could give: its answer takes no part. Log-probabilities are in nats.
"""
