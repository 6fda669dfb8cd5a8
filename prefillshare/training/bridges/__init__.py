"""Bridges between two saved models: fitted to prompts of tasks, and their health."""
