"""SAMURAI: motion-aware memory on the models here, with and without RDS."""
