"""Did it work: held-out loss, exact match and sample answers, before and after a stage."""
