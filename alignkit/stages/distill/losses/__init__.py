"""What distillation compares beside the predictions of training/divergences: hidden states, and texts of two
vocabularies.

DistilBERT's triple loss (Sanh et al. 2019, section 3) is a sum of parts that stand elsewhere: an ``Objective`` of
forward KL at temperature 2, weight 5 and ce 2, and ``hidden.layered`` with the cosine of the last states, weight 1.
"""
