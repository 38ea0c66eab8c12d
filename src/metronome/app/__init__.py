"""From a Hydra configuration to objects, to a run, to its result. The only room that knows Hydra."""
