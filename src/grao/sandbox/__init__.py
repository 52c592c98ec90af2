"""The embedded world: assistant tasks without end, a judge that knows the right answers, and tiny models.

For machines without a model hub: everything is made on the spot, from a seed, on a CPU. Importing the judge
(`grao.sandbox.judge`) needs nothing but the standard library.
"""
