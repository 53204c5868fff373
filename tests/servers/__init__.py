"""The servers that tests talk to, each the real program: one pytest plugin for each."""
