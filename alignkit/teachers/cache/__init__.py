"""The cache on disk: what a teacher said at each position with loss, in few bytes, mapped into memory."""
