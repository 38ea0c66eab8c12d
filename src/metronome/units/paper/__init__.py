"""A training on paper: what it takes on devices that are not here. Pure arithmetic, no torch, no Lightning."""
