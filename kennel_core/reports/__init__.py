"""What the forge should show: the statuses of commits, and one comment for each pull request. Pure.

From rows to values; `kennel_core.reconcile.reporting` compares them with what the forge was told, and sends.
"""
