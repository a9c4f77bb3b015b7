"""Raw text to token shards: readers, cleaning, filters, evaluation questions, one order for all, held-out split, packing, report."""
