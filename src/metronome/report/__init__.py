"""Runs on disk, in tables and figures."""
