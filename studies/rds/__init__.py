"""RDS (recurrent dynamic sparsity): methods side by side, ablations, speed, routing figures."""
