"""What the device can do: which device, which number format, which attention kernel, and why."""

from __future__ import annotations

import importlib.util

import torch

from alignkit.config.sections import Model, Quantization
from alignkit.errors import Fault, RequestError

DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


def choose_device() -> torch.device:
    """The first of CUDA, Apple's MPS, CPU; under a launcher, this process's own CUDA device."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def computes_in_bf16(device: torch.device) -> bool:
    """Whether `device` has instructions for bf16 matrix products (emulation does not count).

    MPS is left out: it takes bf16 tensors on newer systems only, and gains nothing from them.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16") or can.get("bf16"))
    return False


def choose_dtype(section: Model, device: torch.device) -> torch.dtype:
    """The number format of the weights: what was asked for, else bf16 where the device computes in it, else fp32."""
    if section.dtype != "auto":
        return DTYPES[section.dtype]
    return torch.bfloat16 if computes_in_bf16(device) else torch.float32


def choose_attention(section: Model, device: torch.device, dtype: torch.dtype) -> str | None:
    """The attention kernel: what was asked for, else flash attention where it is installed and can run.

    None leaves it to transformers, which takes sdpa, or eager for a model that has no other.

    Raises RequestError when flash attention was asked for where it cannot run.
    """
    able = device.type == "cuda" and dtype != torch.float32
    if section.attention == "flash_attention_2" and not able:
        raise RequestError(
            Fault(
                where="model.attention",
                what=f"flash_attention_2 needs a CUDA device and 16-bit weights; here: {device.type}, {NAMES[dtype]}",
                instead="Write model.attention=auto.",
            )
        )
    if section.attention != "auto":
        return section.attention
    return "flash_attention_2" if able and importlib.util.find_spec("flash_attn") else None


def choose_compute_dtype(section: Quantization, dtype: torch.dtype) -> torch.dtype:
    """Number format of the matrix products with quantized weights; auto: that of the other weights."""
    return dtype if section.compute_dtype == "auto" else DTYPES[section.compute_dtype]
