"""What a person sees: everything for people goes to stderr, and a copy to the run's log."""
