"""A model with the chat template that a data section installs: tokenizer first, weights later, in this order."""

from __future__ import annotations

from typing import Any

from alignkit.config.sections import Data, Model
from alignkit.console import log
from alignkit.data.templates.install import Installed, install
from alignkit.models.loading import Loaded, load_tokenizer
from alignkit.models.sources import Source
from alignkit.models.vocabulary import fit_vocabulary, stop_at_end


def templated_tokenizer(model: Model, source: Source, data: Data) -> tuple[Any, Installed | None]:
    """The model's tokenizer, with the template of `data.template` where one is named, which is said."""
    tokenizer = load_tokenizer(model, source)
    if data.template is None:
        return tokenizer, None
    installed = install(tokenizer, data.template)
    log.say(installed.said)
    return tokenizer, installed


def with_template(loaded: Loaded, installed: Installed) -> Loaded:
    """`loaded`, changed in place: rows for the template's tokens, and generation stops where its turns end."""
    tokenizer = loaded.tokenizer = installed.tokenizer
    changed = fit_vocabulary(loaded.model, tokenizer, added=installed.added, written=installed.written)
    loaded.vocabulary = changed
    fallow = len(changed.trained) - len(installed.added)
    if fallow:
        log.say(f"{fallow} of the template's tokens were in the vocabulary, but never trained: they start anew")
    stop_at_end(loaded.model, tokenizer, installed.eos_before)
    return loaded
