"""A run on several hosts: what its processes agree on before they have a process group."""
