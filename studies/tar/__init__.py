"""TAR (temporal-aware query routing): variants, time, layers run against change."""
