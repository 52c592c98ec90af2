"""The sandbox: unlimited assistant tasks, a judge that knows the right answers, and tiny models.

For machines without a model hub: everything is generated from a seed, on a CPU. The judge (`grao.sandbox.judge`) needs
only the standard library.
"""
