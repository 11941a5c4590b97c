"""Who teaches: live models, caches on disk, servers and texts go in; targets and answers come out."""
