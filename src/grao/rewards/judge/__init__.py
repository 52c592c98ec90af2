"""A language model as judge: which of two texts is better, asked on a server or computed here."""
