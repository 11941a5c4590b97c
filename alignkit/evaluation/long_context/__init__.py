"""Does a model read as far as it says: perplexity by length, retrieval by depth and length, and what it cost."""
