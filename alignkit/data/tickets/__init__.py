"""Support messages and their JSON fields: the quickstart's data set, made by a seeded generator."""

from __future__ import annotations

from alignkit.data.tickets.generate import generate

__all__ = ["generate"]
