"""SAM 2's memory, SAMURAI, DAM4SAM and SAM2Long on one model, with and without RDS."""
