"""The distill stage: a student learns from a teacher that is in memory, on disk, behind a server, or only text."""
