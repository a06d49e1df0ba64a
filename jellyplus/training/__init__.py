"""Recipes, and the Lightning engine that runs them."""
