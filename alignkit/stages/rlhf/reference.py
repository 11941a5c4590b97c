"""The reference of a policy: the model that training starts from, as a model that can be called beside the policy.

With an adapter it is the policy with that adapter off, whatever frozen adapters lie below it: one base in memory. A
policy that is trained whole, or whose adapter does not begin with nothing, has a frozen copy of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from alignkit.config.recipe import GradientRecipe
from alignkit.console import log
from alignkit.models.adapters import attach
from alignkit.models.loading import Loaded
from alignkit.stages.dpo.reference.identity import PLAIN_INITS, adds_nothing, starts_at_base
from alignkit.stages.dpo.reference.models import adapter_off, carries_trained_adapter


class PolicyReference:
    """``as_model`` gives it; a copy is loaded once and kept, since every rollout asks for it."""

    def __init__(self, recipe: GradientRecipe, *, load_base: Callable[[], Loaded]) -> None:
        """``load_base``: the model of the recipe, as it is before an adapter is attached."""
        self.recipe, self.load_base = recipe, load_base
        self._copy: Any = None

    @contextmanager
    def as_model(self, policy: Any) -> Iterator[Any]:
        """The reference, to be called while the context lasts."""
        if carries_trained_adapter(policy) and starts_at_base(self.recipe):
            with adapter_off(policy):
                yield policy
            return
        if self._copy is None:
            log.say("the reference is a frozen copy of the model that training starts from")
            self._copy = self._load().eval().requires_grad_(False)
        yield self._copy

    def _load(self) -> Any:
        loaded = self.load_base()
        if adds_nothing(self.recipe):
            return loaded.model
        adapter = self.recipe.adapter
        if adapter.init in PLAIN_INITS:  # they all begin with the same function, and eva would want rows
            adapter = dataclasses.replace(adapter, init="default")
        return attach(loaded, adapter, seed=self.recipe.seed)

    def release(self) -> None:
        """Give back what a copy took."""
        self._copy = None
