"""The recipe of a run: strict YAML and options into checked dataclasses. Free of torch."""
