"""Yours: data sets and networks. `python scripts/rename.py NAME` gives the package your project's name."""
