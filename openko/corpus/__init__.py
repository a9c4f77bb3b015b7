"""Raw text to token shards: sources, cleaning, filters, held-out split, packing."""
