"""What is trained in full beside an adapter, by the names that the model gives to it."""

from __future__ import annotations

from typing import Any

from alignkit.stages.extend_context.recipe import Recipe


def also_trained(model: Any, recipe: Recipe) -> list[str]:
    """`adapter.modules_to_save` with the embeddings and norms that `context.also_train` asks for.

    Found by what they are, since families call them differently: the input embedding, and every module whose class is
    called a norm. Names are the last parts, each once.
    """
    wanted = recipe.context.also_train
    if recipe.adapter.kind == "none":
        return recipe.adapter.modules_to_save
    embedding = model.get_input_embeddings()
    found = list(recipe.adapter.modules_to_save)
    for name, module in model.named_modules():
        is_embedding = "embeddings" in wanted and module is embedding
        is_norm = "norms" in wanted and type(module).__name__.endswith("Norm")
        if is_embedding or is_norm:
            found.append(name.rpartition(".")[2])
    return list(dict.fromkeys(found))
