"""Answers of the present policy, judged and scored: what every algorithm of the rlhf stage learns from."""
