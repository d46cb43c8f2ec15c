"""Recipes that make the embedded models: one command each, seeded, resumable, on two CPU cores."""
