"""The methods that RDS is compared with: PBD, SlimSAM, AdaViT, DyT and static plans."""
