"""What runs, studies and audits leave on disk: typed records, each file written whole or not at all."""
