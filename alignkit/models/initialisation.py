"""Where the low-rank factors of an adapter start: PiSSA, OLoRA, LoftQ, orthogonal, EVA; all but the last are pure.

In all of them A is (r, in), B is (out, r), s the scale of the layer and W the weight (out, in) in fp32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

EXACT_SVD_UP_TO = 1024
"""Larger matrices are factored by randomised iteration, as the PiSSA paper does (section 3, fast SVD)."""


def leading_svd(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The leading `rank` singular triples: U (out, r), S (r,), V^T (r, in). Uses torch's random state when large."""
    if min(matrix.shape) <= EXACT_SVD_UP_TO:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], vh[:rank]
    u, s, v = torch.svd_lowrank(matrix, q=min(rank + 8, *matrix.shape), niter=16)
    return u[:, :rank], s[:rank], v.T[:rank]


def pissa(weight: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B whose product s·B·A is the best rank-r approximation of W (Meng et al. 2024, equations 2 and 3)."""
    u, s, vh = leading_svd(weight, rank)
    root = (s / scale).sqrt()
    return root.unsqueeze(1) * vh, u * root


def olora(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A = the first r rows of R, B = the first r columns of Q, of W = Q·R (Büyükakyüz 2024, algorithm 1)."""
    q, r = torch.linalg.qr(weight)
    return r[:rank].contiguous(), q[:, :rank].contiguous()


def loftq(weight: torch.Tensor, quantized: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B that undo as much of the quantization error W - Q as rank r can (Li et al. 2023, algorithm 1, T = 1).

    Further rounds of that algorithm quantize W - B·A instead of W. That base exists nowhere but in the run, and the
    saved adapter would not fit the weights that any later process quantizes; with Q = q(W) it does, and given that Q
    these factors are the best there are (Eckart and Young).
    """
    u, s, vh = leading_svd(weight - quantized, rank)
    root = (s / scale).sqrt()
    return root.unsqueeze(1) * vh, u * root


def orthogonal(out: int, into: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random A and B, both not zero, whose product is: rows and columns lie in orthogonal halves of R^r.

    As PEFT's `orthogonal`, which rounds the factors to the base's format, where the product is zero no more.
    """
    q, _ = torch.linalg.qr(torch.randn(rank, rank))
    a = q[0::2].T @ torch.randn(rank // 2, into) / 10
    b = torch.randn(out, rank // 2) @ q[1::2] / 10
    return a, b


def eva(model: Any, batches: Iterable[dict[str, Any]]) -> None:
    """A from the leading right singular vectors of each layer's inputs, B = 0 (Paischer et al. 2024), by PEFT.

    `batches` are padded: input_ids, attention_mask and labels (inputs at unlabelled positions do not count).
    """
    from peft import initialize_lora_eva_weights

    device = next(model.parameters()).device
    wanted = ("input_ids", "attention_mask", "labels")
    rows = [{key: batch[key].to(device) for key in wanted if key in batch} for batch in batches]
    was_training = model.training
    model.eval()
    initialize_lora_eva_weights(model, rows, show_progress_bar=False)
    model.train(was_training)
