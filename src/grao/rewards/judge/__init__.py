"""Language models as pairwise judges, on a server or in this process."""
