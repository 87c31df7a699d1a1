"""A small reproduction of the SHiRA paper: LoRA and sparse masks at one number of trained parameters, alone and fused.

``plan`` says what is run, ``grid`` runs what is missing, one cell a file under ``cells``, ``report`` renders them.
"""
