"""Adapters of other projects' networks."""
