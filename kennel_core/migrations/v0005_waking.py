"""When somebody woke a ref that slept, and when a project's repository was last asked for its heads."""

SQL = (
    """ALTER TABLE "refs" ADD COLUMN "woken_at" REAL""",
    """ALTER TABLE "projects" ADD COLUMN "looked_at" REAL""",
)
