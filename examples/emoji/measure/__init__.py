"""Concept loss, measured: one style and one concept adapter on the emoji model, alone and together."""
