"""``shira train`` for bases that draw: a folder of pictures becomes an adapter of a diffusers pipeline."""
