"""Data stages, section 3.1 of the report: from sources to packed token shards, one file a step."""
