"""A teacher goes in, a smaller model of the same family comes out: fewer layers, heads, neurons or channels."""
