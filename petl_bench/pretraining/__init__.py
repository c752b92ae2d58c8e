"""How the small backbones that the package carries were trained: on generated stills, on a CPU, from a seed."""
