"""The sums of RLHF in numpy and float64, one answer at a time, written down from the papers: the tests' oracles.

An answer's vectors are lists of arrays here; nothing is shared with the toolkit.
"""

from __future__ import annotations

import numpy as np


def split(flat, lengths):
    return np.split(np.asarray(flat, np.float64), np.cumsum(lengths)[:-1])


def gae(rewards, values, lengths, gamma, lam):
    """Schulman et al. 2016, eq. 16 as it stands: the double sum over δ, no recursion."""
    advantages, returns = [], []
    for r, v in zip(split(rewards, lengths), split(values, lengths), strict=True):
        following = np.append(v[1:], 0.0)
        delta = r + gamma * following - v
        a = np.array([sum((gamma * lam) ** k * delta[t + k] for k in range(len(r) - t)) for t in range(len(r))])
        advantages.append(a)
        returns.append(a + v)
    return np.concatenate(advantages), np.concatenate(returns)


def whiten(x, shift_mean=True):
    z = (x - np.mean(x)) / np.sqrt(np.var(x) + 1e-8)
    return z if shift_mean else z + np.mean(x)


def k1(p, q):
    return p - q


def k2(p, q):
    return (p - q) ** 2 / 2


def k3(p, q):
    r = np.exp(q) / np.exp(p)  # π_ref/π, as Schulman writes it
    return r - 1 - np.log(r)


def token_rewards(scores, lengths, kl, beta):
    found = []
    for score, part in zip(scores, split(kl, lengths), strict=True):
        row = -beta * part
        row[-1] += score
        found.append(row)
    return np.concatenate(found)


def to_go(rewards, lengths, gamma):
    found = []
    for r in split(rewards, lengths):
        found += [sum(gamma ** (i - t) * r[i] for i in range(t, len(r))) for t in range(len(r))]
    return np.array(found)


def rloo(scores, samples):
    found = np.zeros(len(scores))
    for i in range(len(scores)):
        first = i - i % samples
        others = [scores[j] for j in range(first, first + samples) if j != i and not np.isnan(scores[j])]
        if others and not np.isnan(scores[i]):
            found[i] = scores[i] - np.mean(others)
    return found


def relative(scores, samples, scale):
    found = np.zeros(len(scores))
    known = [s for s in scores if not np.isnan(s)]
    for i, score in enumerate(scores):
        first = i - i % samples
        group = [s for s in scores[first : first + samples] if not np.isnan(s)]
        if np.isnan(score):
            continue
        if scale == "none":
            found[i] = score - np.mean(group)
            continue
        over = group if scale == "group" else known
        if len(over) > 1:
            found[i] = (score - np.mean(group)) / (np.std(over, ddof=1) + 1e-4)
    return found


def surrogate(new, old, a, low, high):
    ratio = np.exp(new) / np.exp(old)
    return np.where(
        a >= 0, -np.minimum(ratio, 1 + high) * a, -np.maximum(ratio, 1 - low) * a
    )  # the two cases of eq. 7, as Spinning Up's g(ε, A) tells them apart


def value_loss(v, r, old, clip):
    if clip is None:
        return (v - r) ** 2 / 2
    held = old + np.clip(v - old, -clip, clip)
    return np.maximum((v - r) ** 2, (held - r) ** 2) / 2


def explained(v, r):
    return 1 - np.var(r - v) / np.var(r)


def overlong(length, longest, cache):
    """Yu et al. 2025, eq. 13, its three cases."""
    if length <= longest - cache:
        return 0.0
    if length <= longest:
        return (longest - cache - length) / cache
    return -1.0


def adaptive(beta, kl, target, answers, horizon):
    return beta * (1 + np.clip((kl - target) / target, -0.2, 0.2) * answers / horizon)
