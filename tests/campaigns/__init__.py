"""Campaigns: what `make campaign` runs at full length, and tests run for a minute."""
