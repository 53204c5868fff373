"""When somebody woke a ref that slept: it is given its time again."""

SQL = ("""ALTER TABLE "refs" ADD COLUMN "woken_at" REAL""",)
