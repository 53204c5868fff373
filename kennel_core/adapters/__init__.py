"""One module for each outside system; each call has a timeout and a typed error."""
